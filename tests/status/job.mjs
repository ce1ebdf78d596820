#!/usr/bin/env node
// The status page of a real `clickline run` in a real headless Chromium: a real Apache Kafka, the redirect server, the sandbox.
//
//   cargo build --workspace && tests/status/job.mjs      needs Node 18, Chromium and Java 17; half a minute
//
// What is looked at: the login, a chart that moves when clicks come, a rule that fires and why, a dead letter that is replayed by its
// button and then stands in HubSpot, and that the job says it is stopping until it ends.
import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { open, until } from "./browser.mjs";

const root = fileURLToPath(new URL("../../", import.meta.url));
const debug = join(process.env.CARGO_TARGET_DIR ?? join(root, "target"), "debug");
const TOKEN = "0123456789abcdef-of-a-test";
const folder = mkdtempSync(join(tmpdir(), "clickline-job-"));
const children = [];
const start = (name, program, args, env = {}) => {
  const log = openSync(join(folder, `${name}.log`), "a");
  // A group of its own: the broker is a script that starts Java.
  const child = spawn(program, args, { stdio: ["ignore", log, log], env: { ...process.env, ...env }, detached: true });
  child.name = name;
  child.ended = new Promise((done) => child.on("exit", (code) => done((child.code = code ?? -1))));
  child.on("error", (error) => { console.error(`${name} does not start: ${error.message}`); process.exit(1); });
  children.push(child);
  return child;
};
const said = (name) => readFileSync(join(folder, `${name}.log`), "utf8");
const says = (name, words) => until(`${name} to say ${words}`, () => {
  const child = children.find((of) => of.name === name);
  assert.equal(child.code, undefined, `${name} has ended:\n${said(name)}`);
  return words.test(said(name));
});
const signal = (child, name) => process.kill(-child.pid, name);
const free_port = () => execFileSync(join(root, "tests/kafka/free-port"), { encoding: "utf8" }).trim();

let browser;
let failed = 0;
try {
  const [broker_port, port] = [free_port(), free_port()];
  const broker = start("broker", join(root, "tests/kafka/broker"), [`127.0.0.1:${broker_port}`]);
  start("sandbox", join(debug, "clickline-sandbox"), ["--listen", "127.0.0.1:0", "--burst-limit", "100000"]);
  await says("sandbox", /sandbox HubSpot: \S+/);
  const hubspot = said("sandbox").match(/sandbox HubSpot: (\S+)/)[1];
  const ask = async (method, path, body) => {
    const answer = await fetch(hubspot + path, { method, headers: { "content-type": "application/json" }, body: body && JSON.stringify(body) });
    const text = await answer.text();
    assert.ok(answer.ok, `${method} ${path}: ${answer.status} ${text}`);
    return text ? JSON.parse(text) : null;
  };
  const portal = () => ask("GET", "/sandbox/portals/4242");
  await ask("POST", "/sandbox/portals/4242/contacts", { id: "801", properties: { email: "ada@example.com" } });
  await ask("POST", "/sandbox/portals/4242/deals", { id: "9001", properties: { dealname: "d", dealstage: "appointmentscheduled", amount: "6000" }, contact_ids: ["801"] });
  const { refresh_token } = await ask("POST", "/sandbox/portals/4242/refresh-token", {});
  const grant = new URLSearchParams({ grant_type: "refresh_token", client_id: "clickline", client_secret: "sandbox-secret", refresh_token });
  const { access_token } = await (await fetch(`${hubspot}/oauth/v1/token`, { method: "POST", body: grant })).json();
  const { app_id } = await ask("GET", `/oauth/v1/access-tokens/${access_token}`);
  await ask("POST", "/sandbox/faults", { match: { path: "*/events/batch/create", body: "s.elido.me/refused" }, fault: { kind: "reply", status: 400 } });
  await says("broker", /listens on/);

  writeFileSync(join(folder, "clickline.yaml"), `
kafka: {brokers: "127.0.0.1:${broker_port}"}
http: {listen: "0.0.0.0:${port}", token_env: HTTP_TOKEN}
crm: {changes: search}
workspaces:
  acme:
    portals: ["4242"]
    rules:
      - name: three clicks
        trigger: {link_tag: collateral, contact_window: 30d, click_threshold: 3}
        action: {type: advance_deal_stage, pipeline: default, from_stage: appointmentscheduled, to_stage: qualifiedtobuy, guard: {deal_amount_min: 5000}}
hubspot:
  base_url: "${hubspot}"
  client_id: clickline
  client_secret_env: CLIENT_SECRET
  developer_key_env: DEVELOPER_KEY
  connections: {seal: "off"}
  portals: {"4242": {refresh_token_env: REFRESH_TOKEN, app_id: ${app_id}}}
`);
  const secrets = { HTTP_TOKEN: TOKEN, CLIENT_SECRET: "sandbox-secret", DEVELOPER_KEY: "sandbox-developer-key", REFRESH_TOKEN: refresh_token };
  const job = start("job", join(debug, "clickline"), ["run", "--config", join(folder, "clickline.yaml")], secrets);
  await says("job", /the HTTP server listens/);
  const origin = `http://127.0.0.1:${port}`;
  const readyz = async () => (await fetch(`${origin}/readyz`)).status;
  await until("the job to be ready", async () => (await readyz()) === 200);
  writeFileSync(join(folder, "links.yaml"), `
- {domain: s.elido.me, slug: good, workspace: acme, destination: "https://acme.example/", title: Good, tags: [collateral]}
- {domain: s.elido.me, slug: refused, workspace: acme, destination: "https://acme.example/", title: Refused}
- {domain: s.elido.me, slug: many, workspace: acme, destination: "https://acme.example/", title: Many}
`);
  start("redirect", join(debug, "clickline-redirect"), ["--listen", "127.0.0.1:0", "--links", join(folder, "links.yaml"), "--kafka", `127.0.0.1:${broker_port}`]);
  await says("redirect", /listening on http:\S+/);
  const redirect = new URL(said("redirect").match(/listening on (\S+)/)[1]);
  const one = (path, last) => `GET ${path} HTTP/1.1\r\nHost: s.elido.me\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:133.0) Gecko/20100101 Firefox/133.0\r\n${last ? "Connection: close\r\n" : ""}\r\n`;
  const click = (path, times = 1) => new Promise((done, wrong) => {
    const stream = connect(Number(redirect.port), redirect.hostname);
    let answers = 0;
    stream.setEncoding("latin1").on("data", (text) => (answers += text.split("HTTP/1.1 302").length - 1)).on("error", wrong);
    stream.on("close", () => (answers === times ? done() : wrong(new Error(`${path}: ${answers} of ${times} answers`))));
    for (let n = 1; n <= times; n += 1) stream.write(one(path, n === times));
  });

  // Nobody sees it without the token, and nothing changes without the page's word.
  const bare = (path, headers = {}, method = "GET") => fetch(origin + path, { method, headers, redirect: "manual", body: method === "POST" ? "{}" : undefined }).then((answer) => answer.status);
  for (const path of ["/status", "/metrics", "/dead-letters"]) {
    assert.equal(await bare(path), 401, path);
    assert.equal(await bare(path, { authorization: "Bearer 0123456789abcdef-of-another" }), 401, path);
    assert.equal(await bare(path, { authorization: `Bearer ${TOKEN}` }), 200, path);
  }
  assert.equal(await bare("/dead-letters/decide", { authorization: `Bearer ${TOKEN}`, "content-type": "application/json" }, "POST"), 403);

  // In the browser the page is behind a form; a wrong token does not open it.
  browser = await open();
  const { call, see, events } = browser;
  await call("Page.navigate", { url: `${origin}/` });
  const log_in = async (token) => {
    await until("the form", () => see("location.pathname === '/login' && document.readyState === 'complete' && !!document.querySelector('#token')"));
    await see(`document.querySelector('#token').value = ${JSON.stringify(token)}; document.querySelector('form').submit()`);
  };
  await log_in("0123456789abcdef-of-another");
  await until("the refusal", () => see("document.querySelector('[role=alert]')?.textContent.includes('not the right one') === true"));
  await log_in(TOKEN);
  await until("the state", () => see("document.getElementById('state')?.textContent === 'Running'"));
  assert.equal(await see("document.cookie"), "", "no script sees the session");
  assert.match(await see("document.getElementById('connections').textContent"), /4242 connected/);

  // Three clicks of a contact move the deal; the page says why.
  const facts = (name) => see(`[...document.querySelectorAll('#facts div')].find((of) => of.firstChild.textContent === ${JSON.stringify(name)})?.lastChild.textContent`);
  for (let n = 0; n < 3; n += 1) await click("/good?eid=801&utm_source=webinar");
  await until("the reason", () => see("/Deal 9001 appointmentscheduled → qualifiedtobuy.*contact 801: 3 clicks on tag collateral.*3 are enough .rule three clicks/.test(document.getElementById('advances').textContent)"));
  await until("the rule", () => see("document.getElementById('rules').textContent.includes('hot for 1, fired 1 times')"));
  await until("the deal to stand there", async () => (await portal()).deals[0].properties.dealstage === "qualifiedtobuy");
  await until("the clicks", async () => (await facts("Clicks read")) === "3");

  // Charts show what comes, and that nothing is left to read.
  const line = (id) => see(`document.querySelector('#chart-${id} polyline').getAttribute('points')`);
  const high = async (id) => (await line(id)).split(" ").some((point) => Number(point.split(",")[1]) < 58);
  let sent = 3;
  await until("the rate to move", async () => {
    await Promise.all([1, 2, 3, 4].map(() => click("/many", 250)));
    sent += 1000;
    return high("rate");
  });
  await until("all of them", async () => (await facts("Clicks read")) === String(sent) && (await see("document.getElementById('lag').textContent")) === "0");

  // What HubSpot refused is replayed by its button, and then stands there, once.
  await click("/refused?eid=801");
  await until("the dead letter", () => see("document.getElementById('letters-open').textContent.startsWith('1 refused by HubSpot')"));
  await ask("DELETE", "/sandbox/faults");
  await see("document.getElementById('letters-load').click()");
  await until("the letter", () => see("document.querySelectorAll('#letters li').length === 1"));
  assert.match(await see("document.querySelector('#letters pre').textContent"), /s\.elido\.me\/refused/);
  await see("document.querySelector('#letters button[aria-label^=Replay]').click()");
  await until("the replay", () => see("/replayed.*0 are open/.test(document.getElementById('letters-said').textContent)"));
  const refused = async () => (await portal()).events.filter((of) => of.tokens.link_slug === "refused").length;
  await until("the event", async () => (await refused()) === 1);
  await until("none to be open", () => see("document.getElementById('letters-open').textContent.startsWith('0 refused by HubSpot')"));

  // Asked to stop while the brokers stand still: balancers and people are told until the end, and it is a clean one.
  signal(broker, "SIGSTOP");
  await click("/good?eid=801");
  process.kill(job.pid, "SIGTERM");
  await until("readyz to say so", async () => (await readyz()) === 503);
  assert.equal(job.code, undefined, "it still runs");
  assert.match(await (await fetch(`${origin}/readyz`)).text(), /stopping/);
  await until("the page to say so", () => see("document.getElementById('state').textContent === 'Stopping'"));
  signal(broker, "SIGCONT");
  assert.equal(await job.ended, 0, said("job"));
  await until("the page to miss it", () => see("document.getElementById('state').textContent === 'The job does not answer'"));
  assert.equal(await refused(), 1);
  assert.deepEqual(events.filter((of) => of.method === "Runtime.exceptionThrown"), []);
  assert.ok(!said("job").includes(TOKEN) && !said("job").includes(refresh_token));
  console.log("the status page of a real job: all as expected");
} catch (error) {
  failed = 1;
  console.error(error);
  for (const { name } of children) console.error(`--- ${name}\n${said(name).slice(-4000)}`);
} finally {
  await browser?.close();
  for (const child of children.filter((of) => of.code === undefined)) {
    // A broker that was stopped in the middle must go on to end.
    for (const name of ["SIGCONT", "SIGTERM"]) signal(child, name);
    const timer = setTimeout(() => signal(child, "SIGKILL"), 10000);
    await child.ended;
    clearTimeout(timer);
  }
  rmSync(folder, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 });
}
process.exit(failed);
