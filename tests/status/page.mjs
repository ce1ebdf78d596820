#!/usr/bin/env node
// The status page in a real headless Chromium; the page's own files, the status is made up. job.mjs looks at a real job.
//
//   tests/status/page.mjs        needs Node 18 and Chromium (apt install nodejs chromium)
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { open, until } from "./browser.mjs";

const root = new URL("../../", import.meta.url);
const file = (name) => readFileSync(new URL(`src/status/page/${name}`, root), "utf8");
// The job's own policy, as its source has it.
const policy = readFileSync(new URL("src/status/routes.rs", root), "utf8").match(/const POLICY: &str = "([^;]*;[^"]*)"/)[1].replace(/\\\n\s*/g, "");
const evil = '<script>window.broken = 1</script><img src="http://elsewhere.invalid/x">';

let clicks = 0;
let letters = ["0:7", "0:8"];
const wishes = [];
const status = () => ({
  v: 1, at: Date.now(), ready: true, draining: false, frontier: { at: Date.now() - 150, delay_ms: 150 },
  read: { clicks, forms: 1, contacts: 2, deals: 3 },
  partitions: [{ topic: "clicks", partition: 0, offset: clicks, end: clicks + 4, lag: 4, log_time: Date.now() }],
  kept: { held_clicks: 3, live_keys: 12, bytes: 5000 },
  rules: [{ name: evil, workspace: "acme", mode: "live", hot: 2, fired: 1 }],
  advances: [{
    deal_id: "9", contact_id: "7", from_stage: "a", to_stage: "b", shadow: false, count: 3, threshold: 3, window_ms: 86400000, rule: "r",
    link_tag: "x".repeat(120), last_click: { id: "c1", ts: Date.now() - 5000 },
  }],
  sinks: {
    outbox: { transactions: 1, failed: 0, records: {}, last_at: 0 },
    hubspot: { lag: 1, parked: 0, delivered: 4, requests: 9, portals: [{ portal: "4242", window_left: 90, daily_left: null, queues: {}, oldest_waits_ms: 0, suspended: false }] },
    clickhouse: [
      { topic: "clicks", rows: 70, lag: 2, refused: 1, lost: 0, last_at: Date.now() - 3000, trouble: null },
      { topic: "hubspot.timeline", rows: 0, lag: 9, refused: 0, lost: 0, last_at: null, trouble: { class: "setup", code: 164, since: Date.now() - 65000 } },
    ],
  },
  connections: [{ portal: "4242", workspaces: ["acme"], state: "reinstall-required", problem: evil, refreshed_at: Date.now() - 60000, refreshes: { ok: 2 }, gated: [] }],
  dead_letters: { open: letters.length, oldest_at: Date.now() - 9000, unreadable: {} }, snapshot_age_ms: null,
});
const server = createServer((request, response) => {
  const json = (code, value) => response.writeHead(code, { "content-type": "application/json" }).end(JSON.stringify(value));
  const text = (type, body) => response.writeHead(200, { "content-type": type, "content-security-policy": policy }).end(body);
  if (request.url === "/") return text("text/html", file("index.html").replace("{word}", "the-word"));
  if (request.url === "/page.css") return text("text/css", file("page.css"));
  if (request.url === "/page.js") return text("text/javascript", file("page.js"));
  if (request.url === "/status") return json(200, status());
  if (request.url === "/dead-letters") {
    const letter = (id) => ({ id, at: Date.now(), reason: "json", detail: evil, source: "clicks", portal: null, record: evil });
    return json(200, { open: letters.length, letters: letters.map(letter) });
  }
  let body = "";
  request.on("data", (part) => (body += part)).on("end", () => {
    const wish = JSON.parse(body);
    wishes.push({ ...wish, word: request.headers["x-clickline-word"] });
    letters = letters.filter((id) => id !== wish.id);
    json(200, { said: `${wish.id} ${wish.decision}ed` });
  });
});
await new Promise((listens) => server.listen(0, "127.0.0.1", listens));
const origin = `http://127.0.0.1:${server.address().port}`;

const { call, see, key, events, close } = await open();
let failed = 0;
try {
  await call("Emulation.setDeviceMetricsOverride", { width: 375, height: 720, deviceScaleFactor: 1, mobile: true });
  await call("Page.navigate", { url: `${origin}/` });
  await until("the state", () => see("document.getElementById('state')?.textContent === 'Running'"));

  // Charts move when clicks come.
  const points = () => see("document.querySelector('#chart-rate polyline').getAttribute('points')");
  const still = await points();
  clicks += 500;
  await until("the chart to move", async () => (await points()) !== still && (await see("parseFloat(document.getElementById('rate').textContent) > 0")));
  await until("the clicks", () => see("document.getElementById('facts').textContent.includes('Clicks read500')"));

  // Why a deal advanced, how connections stand.
  assert.match(await see("document.getElementById('advances').textContent"), /Deal 9 a → b.*contact 7: 3 clicks on tag x+.*3 are enough/);
  assert.equal(await see("document.querySelector('#connections a').getAttribute('href')"), "oauth/install?workspace=acme");

  // How ClickHouse stands.
  const facts = await see("document.getElementById('facts').textContent");
  assert.match(facts, /ClickHouse, clicks70 rows, 2 records wait, the last batch [\d.]+ (ms|s) ago; 1 refused for good/);
  assert.match(facts, /ClickHouse, hubspot.timeline0 rows, 9 records wait, no batch since the start; refused with code 164 for 6\d\.\d s: somebody must act/);

  // By keyboard alone: to the button, to a dead letter's, and that one is replayed.
  const focus = () => see("document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent");
  const tab_to = async (what) => {
    for (let n = 0; n < 40 && (await focus()) !== what; n += 1) await key("Tab", 9);
    assert.equal(await focus(), what);
  };
  await tab_to("Look at them");
  assert.notEqual(await see("getComputedStyle(document.activeElement).outlineStyle"), "none", "the focus is seen");
  await key("Enter", 13, "\r");
  await until("the letters", () => see("document.querySelectorAll('#letters li').length === 2"));
  assert.equal(await see("document.querySelector('#letters pre').textContent"), evil, "shown as text");
  await tab_to("Replay dead letter 0:7");
  await key("Enter", 13, "\r");
  await until("the replay", () => see("document.getElementById('letters-said').textContent.startsWith('0:7 replayed; 1 is open')"));
  assert.deepEqual(wishes, [{ id: "0:7", decision: "replay", word: "the-word" }]);
  assert.equal(await focus(), "Look at them", "the focus is not lost");

  // On a phone nothing scrolls sideways, in both colour schemes; buttons are large enough for a finger.
  for (const scheme of ["light", "dark"]) {
    await call("Emulation.setEmulatedMedia", { features: [{ name: "prefers-color-scheme", value: scheme }, { name: "prefers-reduced-motion", value: "reduce" }] });
    assert.ok(await see("document.documentElement.scrollWidth <= 375"), `${scheme}: ${await see("document.documentElement.scrollWidth")}`);
    assert.ok(await see("[...document.querySelectorAll('button')].every((button) => button.offsetHeight >= 44)"));
  }

  // What came from outside never became markup, nothing was asked of others, nothing was complained of.
  assert.equal(await see("window.broken"), undefined);
  assert.equal(await see("document.querySelectorAll('main script, main img').length"), 0);
  const asked = events.filter((of) => of.method === "Network.requestWillBeSent").map((of) => of.params.request.url);
  assert.deepEqual(asked.filter((url) => !url.startsWith(origin) && !url.startsWith("data:")), []);
  const complaints = () => events.filter((of) => ["Runtime.exceptionThrown", "Log.entryAdded"].includes(of.method) || (of.method === "Runtime.consoleAPICalled" && of.params.type === "error"));
  assert.deepEqual(complaints(), []);

  // Scripts that somebody puts into the page do not run.
  await see("document.body.append(Object.assign(document.createElement('script'), { textContent: 'window.broken = 2' }))");
  assert.equal(await see("window.broken"), undefined, "the policy stops it");
  await until("the browser to say so", () => complaints().some((of) => of.params.entry?.text.includes("Content Security Policy")));

  // With CLICKLINE_AXE, the path of axe-core's axe.min.js, no rule of accessibility is broken.
  if (process.env.CLICKLINE_AXE) {
    await see(`${readFileSync(process.env.CLICKLINE_AXE, "utf8")};0`);
    assert.deepEqual(await see("axe.run().then((found) => found.violations.map((of) => `${of.id}: ${of.nodes.map((node) => node.html).join(' ')}`))"), []);
  }
  console.log("the status page: all as expected");
} catch (error) {
  failed = 1;
  console.error(error);
} finally {
  await close();
  server.close();
  server.closeAllConnections();
}
process.exit(failed);
