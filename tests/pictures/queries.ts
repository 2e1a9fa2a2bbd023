// From a panel's targets to Grafana data frames: what Grafana's Prometheus data source does, for the query kinds we use.
import { DataFrame, FieldType, standardTransformers, standardTransformersRegistry, toDataFrame, transformDataFrame } from '@grafana/data';
import { lastValueFrom } from 'rxjs';

export type Choice = Record<string, string>;
export interface Span { from: number; to: number; step: number }

// Some stand in the list under two names.
const transformers = new Map(Object.values(standardTransformers).map((made: any) => [made.id, made]));
standardTransformersRegistry.setInit(() =>
  [...transformers].map(([id, transformation]) => ({ id, name: id, transformation, editor: () => null })) as any
);

export function filled(text: string, choice: Choice): string {
  const whole = text.replace(/\$__rate_interval/g, '15s').replace(/\$__range/g, '5m');
  return whole.replace(/"\$(\w+)"/g, (_, name) => `"${choice[name] ?? '.*'}"`);
}

async function ask(path: string, parameters: Record<string, string>): Promise<any[]> {
  const answer = await (await fetch(`/prom/api/v1/${path}?${new URLSearchParams(parameters)}`)).json();
  if (answer.status !== 'success') throw new Error(answer.error);
  return answer.data.result;
}

function legend(target: any, metric: Record<string, string>): string | undefined {
  return target.legendFormat
    ? target.legendFormat.replace(/\{\{\s*(\w+)\s*\}\}/g, (_: string, name: string) => metric[name] ?? '')
    : undefined;
}

function seriesFrame(target: any, series: any, values: [number, string | null][]): DataFrame {
  return toDataFrame({
    refId: target.refId,
    fields: [
      { name: 'Time', type: FieldType.time, values: values.map((v) => v[0] * 1000), config: {} },
      {
        name: 'Value', type: FieldType.number, labels: series.metric, values: values.map((v) => (v[1] === null ? null : Number(v[1]))),
        config: { displayNameFromDS: legend(target, series.metric) },
      },
    ],
  });
}

// A line is broken where there was no scrape: Prometheus leaves such steps out, Grafana's data source puts nulls there.
function withGaps(values: [number, string][], span: Span): [number, string | null][] {
  const known = new Map(values.map(([at, value]) => [Math.round(at / span.step), value]));
  const out: [number, string | null][] = [];
  for (let step = Math.ceil(span.from / 1000 / span.step); step * span.step <= span.to / 1000; step++) {
    out.push([step * span.step, known.get(step) ?? null]);
  }
  return out;
}

function tableFrame(target: any, result: any[], several: boolean): DataFrame {
  const labels = [...new Set(result.flatMap((series) => Object.keys(series.metric)))].sort();
  return toDataFrame({
    refId: target.refId,
    fields: [
      { name: 'Time', type: FieldType.time, values: result.map((s) => s.value[0] * 1000), config: {} },
      ...labels.map((name) => ({
        name, type: FieldType.string, values: result.map((s) => s.metric[name] ?? ''), config: { filterable: true },
      })),
      {
        name: several ? `Value #${target.refId}` : 'Value', type: FieldType.number,
        values: result.map((s) => Number(s.value[1])), config: {},
      },
    ],
  });
}

export async function frames(panel: any, choice: Choice, span: Span): Promise<DataFrame[]> {
  const out: DataFrame[] = [];
  for (const target of panel.targets ?? []) {
    const query = filled(target.expr, choice);
    if (target.instant) {
      const result = await ask('query', { query, time: String(span.to / 1000) });
      if (!result.length) continue;
      if (target.format === 'table') out.push(tableFrame(target, result, panel.targets.length > 1));
      else out.push(...result.map((series) => seriesFrame(target, series, [series.value])));
    } else {
      const start = Math.ceil(span.from / 1000 / span.step) * span.step;
      const result = await ask('query_range', { query, start: String(start), end: String(span.to / 1000), step: String(span.step) });
      out.push(...result.map((series) => seriesFrame(target, series, withGaps(series.values, span))));
    }
  }
  return panel.transformations?.length && out.length
    ? lastValueFrom(transformDataFrame(panel.transformations, out))
    : out;
}
