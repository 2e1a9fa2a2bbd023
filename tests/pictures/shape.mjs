// node shape.mjs DIRECTORY FILE...: checks each dashboard against the types of @grafana/schema with the TypeScript compiler.
import { spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { basename } from 'node:path';

const here = new URL('.', import.meta.url).pathname;
const [, , directory, ...files] = process.argv;
// The types' enums are TypeScript's own; in JSON they are their values.
const PLAIN = 'type Plain<T> = T extends string ? `${T}` : T extends (infer U)[] ? Plain<U>[] : T extends object ? { [K in keyof T]: Plain<T[K]> } : T;\n'
  + '// An annotation carries the query of its data source beside what all annotations have.\n'
  + 'type Mark = Plain<AnnotationQuery> & { expr: string; step: string; titleFormat: string; textFormat: string; useValueForTime: boolean };\n'
  + "type Board = Omit<Plain<Dashboard>, 'annotations'> & { annotations: { list: Mark[] } };";
const sources = files.map((file) => {
  const source = `${directory}/${basename(file, '.json')}.ts`;
  writeFileSync(source, `import type { AnnotationQuery, Dashboard } from '@grafana/schema';\n${PLAIN}\nexport const board: Board = ${readFileSync(file)};\n`);
  return source;
});
const done = spawnSync(`${here}node_modules/.bin/tsc`,
  ['--noEmit', '--strict', '--skipLibCheck', '--module', 'esnext', '--moduleResolution', 'bundler', ...sources], { encoding: 'utf8' });
process.stdout.write(done.stdout || `${files.length} dashboards have the shape of @grafana/schema\n`);
process.exit(done.status);
