// node draw.mjs ORDER.json: bundles the page, serves it beside Prometheus, and takes one picture per order.
import { createServer } from 'node:http';
import { mkdirSync, readFileSync } from 'node:fs';
import { build } from 'esbuild';
import { chromium } from 'playwright-core';

const here = new URL('.', import.meta.url).pathname;
const order = JSON.parse(readFileSync(process.argv[2]));
mkdirSync(order.out, { recursive: true });
// The CommonJS builds: esbuild takes the default export of a package that an .mjs file imports for its whole exports.
const alias = Object.fromEntries(['data', 'ui'].map((name) => [`@grafana/${name}`, `${here}node_modules/@grafana/${name}/dist/cjs/index.cjs`]));
const bundle = await build({
  alias,
  entryPoints: [`${here}app.tsx`], bundle: true, write: false, outdir: order.out, format: 'iife', jsx: 'transform', logLevel: 'error',
  loader: { '.svg': 'dataurl', '.woff2': 'dataurl', '.woff': 'dataurl', '.ttf': 'dataurl', '.png': 'dataurl', '.gif': 'dataurl' },
  define: { 'process.env.NODE_ENV': '"production"', global: 'window' },
});
const served = Object.fromEntries(bundle.outputFiles.map((file) => [file.path.endsWith('.css') ? '/app.css' : '/app.js', file.text]));
const PAGE = '<!doctype html><meta charset=utf-8><link rel=stylesheet href=/app.css>'
  + '<body style="background:#111217;color:#ccccdc;margin:0;font-family:sans-serif"><div id=root></div><script src=/app.js></script>';

const server = createServer(async (request, response) => {
  const url = request.url;
  if (url.startsWith('/prom/')) {
    const answer = await fetch(order.prometheus + url.slice(5));
    response.writeHead(answer.status, { 'content-type': 'application/json' }).end(await answer.text());
  } else if (url.startsWith('/board/')) response.end(readFileSync(`${order.boards}/${url.slice(7)}`));
  else if (served[url]) response.writeHead(200, { 'content-type': url.endsWith('css') ? 'text/css' : 'text/javascript' }).end(served[url]);
  else if (url.startsWith('/?')) response.writeHead(200, { 'content-type': 'text/html' }).end(PAGE);
  else response.writeHead(404).end();
}).listen(0, '127.0.0.1');
await new Promise((ready) => server.once('listening', ready));

const browser = await chromium.launch({ executablePath: order.chromium, args: ['--no-sandbox', '--disable-gpu'] });
let bad = 0;
for (const picture of order.pictures) {
  const page = await browser.newPage({ viewport: { width: picture.width, height: 900 }, deviceScaleFactor: picture.scale ?? 1 });
  page.on('pageerror', (why) => { bad += 1; console.error(`${picture.name}: ${why}`); });
  const asked = new URLSearchParams({
    uid: picture.uid, choice: JSON.stringify(picture.choice), span: JSON.stringify(order.span), width: String(picture.width),
  });
  await page.goto(`http://127.0.0.1:${server.address().port}/?${asked}`);
  await page.waitForFunction('window.waiting === 0', null, { timeout: 60000 });
  await page.evaluate(() => new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(drawn, 300)))));
  const empty = await page.$$eval('[data-panel]:has(.nodata)', (all) => all.map((panel) => panel.dataset.panel));
  const failed = await page.$$eval('[data-panel]:has(.failed)', (all) => all.map((panel) => `${panel.dataset.panel}: ${panel.textContent}`));
  const height = await page.evaluate(() => document.getElementById('root').scrollHeight);
  if (!height) { bad += 1; console.error(`${picture.name}: the page is blank`); continue; }
  await page.setViewportSize({ width: picture.width, height: Math.min(height, picture.height ?? 12000) });
  await page.evaluate(() => new Promise((drawn) => requestAnimationFrame(() => setTimeout(drawn, 300))));
  await page.screenshot({ timeout: 120000, path: `${order.out}/${picture.name}.png` });
  console.log(`${picture.name}.png  ${picture.width}x${height}  empty: ${empty.join(', ') || 'none'}`);
  for (const why of failed) { bad += 1; console.error(`${picture.name}: ${why}`); }
  await page.close();
}
await browser.close();
server.close();
process.exit(bad ? 1 : 0);
