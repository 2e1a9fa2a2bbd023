// Draws one dashboard's JSON with Grafana's own panel components. The grid, the rows and the state timeline are ours:
// Grafana does not publish those.
import React from 'react';
import { createRoot } from 'react-dom/client';
import {
  applyFieldOverrides, createTheme, DataFrame, dateTime, displayNameOverrideProcessor, FieldConfigOptionsRegistry, FieldType,
  getDisplayValueAlignmentFactors, getFieldDisplayName, getFieldDisplayValues, identityOverrideProcessor, numberOverrideProcessor,
  standardFieldConfigEditorRegistry, ThemeContext, thresholdsOverrideProcessor, unitOverrideProcessor, valueMappingsOverrideProcessor,
} from '@grafana/data';
import { BarGauge, BigValue, GlobalStyles, PanelChrome, Table, TimeSeries } from '@grafana/ui';
import { Choice, frames, Span } from './queries';

const CELL = 30, GAP = 8, HEADING = 34;
const theme = createTheme({ colors: { mode: 'dark' } });
const BASIC: Record<string, any> = {
  displayName: displayNameOverrideProcessor, unit: unitOverrideProcessor, min: numberOverrideProcessor, max: numberOverrideProcessor,
  decimals: numberOverrideProcessor, thresholds: thresholdsOverrideProcessor, mappings: valueMappingsOverrideProcessor,
  color: identityOverrideProcessor, noValue: identityOverrideProcessor, links: identityOverrideProcessor,
};
const CUSTOM = [
  'drawStyle', 'lineWidth', 'fillOpacity', 'lineInterpolation', 'showPoints', 'pointSize', 'stacking', 'thresholdsStyle', 'axisPlacement',
  'axisLabel', 'axisSoftMin', 'axisSoftMax', 'spanNulls', 'gradientMode', 'scaleDistribution', 'hideFrom', 'lineStyle', 'cellOptions', 'width', 'align', 'filterable',
];
const option = (id: string, process: any, isCustom: boolean): any => ({
  id: isCustom ? `custom.${id}` : id, path: id, name: id, isCustom, process, shouldApply: () => true, getItemsCount: () => 0,
  override: () => null, editor: () => null,
});
const basic = Object.entries(BASIC).map(([id, process]) => option(id, process, false));
standardFieldConfigEditorRegistry.setInit(() => basic);
const registry = new FieldConfigOptionsRegistry(() => [...basic, ...CUSTOM.map((id) => option(id, identityOverrideProcessor, true))]);

interface Drawn { panel: any; data: DataFrame[]; span: Span; width: number; height: number }

function Values({ panel, data, width, height }: Drawn) {
  const calcs = panel.options?.reduceOptions?.calcs ?? ['lastNotNull'];
  const values = getFieldDisplayValues({
    fieldConfig: panel.fieldConfig, reduceOptions: { calcs, values: false }, replaceVariables: (s: string) => s, theme, data, timeZone: 'utc',
  } as any);
  if (panel.type === 'bargauge') {
    const alignment = getDisplayValueAlignmentFactors(values);
    const each = Math.min(40, height / values.length) - 4;
    return <div>{values.map((v: any, i) => (
      <div key={i} style={{ marginBottom: 4 }}>
        <BarGauge width={width} height={each} value={v.display} field={v.field} theme={theme} display={v.view?.getFieldDisplayProcessor(v.colIndex)}
          orientation={'horizontal' as any} displayMode={panel.options.displayMode} showUnfilled alignmentFactors={alignment} text={{ titleSize: 13, valueSize: 13 }} />
      </div>))}</div>;
  }
  const perRow = Math.max(1, Math.min(values.length, Math.floor(width / 130)));
  const rows = Math.ceil(values.length / perRow);
  return <div style={{ display: 'flex', flexWrap: 'wrap', gap: 4 }}>{values.map((v: any, i) => (
    <BigValue key={i} width={width / perRow - 4} height={height / rows - 4} value={v.display} theme={theme}
      colorMode={panel.options.colorMode} graphMode={panel.options.graphMode} textMode={panel.options.textMode} />))}</div>;
}

function States({ data, span, width, height, panel }: Drawn) {
  const fields = data.flatMap((frame) => frame.fields.filter((f) => f.type === FieldType.number).map((f) => ({ frame, f })));
  const words = new Map<string, string>();
  const place = 170, row = (height - 22) / Math.max(1, fields.length);
  const x = (at: number) => place + ((at - span.from) / (span.to - span.from)) * (width - place);
  const bands = fields.map(({ frame, f }, y) => {
    const times = frame.fields[0].values as number[];
    const found: any[] = [];
    for (let i = 0; i < times.length;) {
      let end = i;
      while (end + 1 < times.length && f.values[end + 1] === f.values[i]) end++;
      if (f.values[i] !== null) {
        const shown = f.display!(f.values[i]);
        words.set(shown.text, shown.color!);
        found.push(<div key={i} style={{
          position: 'absolute', left: x(times[i]), top: y * row, height: row * 0.85, background: shown.color, opacity: 0.8,
          width: Math.max(1, x(times[end] + span.step * 1000) - x(times[i])),
        }} />);
      }
      i = end + 1;
    }
    return <React.Fragment key={y}>
      <div style={{ position: 'absolute', left: 0, top: y * row, width: place - 8, textAlign: 'right', fontSize: 11, lineHeight: `${row * 0.85}px`,
        whiteSpace: 'nowrap', overflow: 'hidden' }}>{getFieldDisplayName(f, frame, data)}</div>{found}
    </React.Fragment>;
  });
  return <div style={{ position: 'relative', width, height }}>{bands}
    <div style={{ position: 'absolute', bottom: 0, fontSize: 11 }}>{[...words].map(([text, color]) => (
      <span key={text} style={{ marginRight: 12 }}><span style={{ background: color, display: 'inline-block', width: 10, height: 10 }} /> {text}</span>))}
    </div></div>;
}

function Body(drawn: Drawn) {
  const { panel, data, span, width, height } = drawn;
  if (!data.length || data.every((frame) => !frame.length)) {
    return <div className="nodata" style={{ opacity: 0.6, textAlign: 'center', paddingTop: height / 2 - 20 }}>
      {panel.fieldConfig.defaults.noValue ?? 'No data'}</div>;
  }
  if (panel.type === 'timeseries') {
    const timeRange = { from: dateTime(span.from), to: dateTime(span.to), raw: { from: 'now-5m', to: 'now' } } as any;
    return <TimeSeries frames={data} structureRev={1} timeRange={timeRange} timeZone="utc" width={width} height={height} legend={panel.options.legend} />;
  }
  if (panel.type === 'table') {
    return <Table data={data[0]} width={width} height={height} cellHeight={panel.options.cellHeight} initialSortBy={panel.options.sortBy} />;
  }
  if (panel.type === 'state-timeline') return <States {...drawn} />;
  if (panel.type === 'stat' || panel.type === 'bargauge') return <Values {...drawn} />;
  throw new Error(`nothing draws a ${panel.type}`);
}

function Panel({ panel, choice, span, place }: any) {
  const [data, setData] = React.useState<DataFrame[]>();
  const [error, setError] = React.useState('');
  React.useEffect(() => {
    frames(panel, choice, span)
      .then((found) => setData(applyFieldOverrides({
        data: found, fieldConfig: panel.fieldConfig, replaceVariables: (s) => s, theme, fieldConfigRegistry: registry, timeZone: 'utc',
      })))
      .catch((why) => setError(String(why)))
      .finally(() => { (window as any).waiting -= 1; });
  }, []);
  return <div data-panel={panel.title} style={{ position: 'absolute', left: place.x, top: place.y, width: place.w, height: place.h }}>
    <PanelChrome width={place.w} height={place.h} title={panel.title} description={panel.description}>{(width, height) =>
      error ? <div className="failed">{error}</div> : data ? <Body panel={panel} data={data} span={span} width={width} height={height} /> : null}
    </PanelChrome></div>;
}

// On a phone Grafana puts panels one below the other, whatever their width.
function layout(panels: any[], width: number, stacked: boolean) {
  const column = (width + GAP) / 24;
  let y = 0;
  return panels.map((panel) => {
    const { x, y: gridY, w, h } = panel.gridPos;
    const height = panel.type === 'row' ? HEADING : h * (CELL + GAP) - GAP;
    if (stacked) {
      const place = { x: 0, y, w: width, h: height };
      y += height + GAP;
      return place;
    }
    return { x: x * column, y: gridY * (CELL + GAP), w: w * column - GAP, h: height };
  });
}

async function main() {
  const asked = new URLSearchParams(location.search);
  const board = await (await fetch(`/board/${asked.get('uid')}.json`)).json();
  const choice: Choice = JSON.parse(asked.get('choice')!);
  const span: Span = JSON.parse(asked.get('span')!);
  const width = Number(asked.get('width')) - 16;
  const places = layout(board.panels, width, width < 769);
  const bottom = Math.max(...places.map((place: any) => place.y + place.h));
  const shown = Object.entries(choice).map(([name, value]) => `${name}: ${value === '.*' ? 'All' : value}`).join('   ');
  (window as any).waiting = board.panels.filter((panel: any) => panel.type !== 'row').length;
  createRoot(document.getElementById('root')!).render(
    <ThemeContext.Provider value={theme}><GlobalStyles />
      <div style={{ padding: 8 }}><div style={{ height: 40, fontSize: 18 }}>{board.title} <span style={{ fontSize: 12, opacity: 0.7 }}>{shown}</span></div>
        <div style={{ position: 'relative', height: bottom + 8 }}>{board.panels.map((panel: any, i: number) => panel.type === 'row'
          ? <div key={i} style={{ position: 'absolute', left: places[i].x, top: places[i].y, fontSize: 15, lineHeight: `${HEADING}px` }}>{panel.title}</div>
          : <Panel key={i} panel={panel} choice={choice} span={span} place={places[i]} />)}</div></div>
    </ThemeContext.Provider>);
}
main().catch((why) => { document.body.textContent = String(why.stack); (window as any).waiting = 0; });
