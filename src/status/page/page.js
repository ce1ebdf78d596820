// Asks for the status every second and shows it. All that came from outside is set as text, never as markup.
"use strict";

const KEPT = 120;
const history = { rate: [], lag: [], delay: [] };
const word = document.querySelector("meta[name=clickline-word]").content;
const at = (id) => document.getElementById(id);
let before = null;

/** An element with text and children. */
function make(tag, text, ...children) {
  const element = document.createElement(tag);
  if (text) element.textContent = text;
  element.append(...children);
  return element;
}

function length(ms) {
  if (ms < 1000) return `${ms} ms`;
  if (ms < 120000) return `${(ms / 1000).toFixed(1)} s`;
  if (ms < 7200000) return `${Math.round(ms / 60000)} min`;
  return ms < 172800000 ? `${Math.round(ms / 3600000)} h` : `${Math.round(ms / 86400000)} d`;
}

const ago = (now, then) => `${length(Math.max(0, now - then))} ago`;

function draw(id, value) {
  const values = history[id];
  values.push(value);
  if (values.length > KEPT) values.shift();
  const most = Math.max(1, ...values);
  const step = 300 / (KEPT - 1);
  const first = KEPT - values.length;
  const points = values.map((v, i) => `${((first + i) * step).toFixed(1)},${(58 - (56 * v) / most).toFixed(1)}`);
  at(`chart-${id}`).querySelector("polyline").setAttribute("points", points.join(" "));
}

/** Puts items in place of the old ones, unless they are the same: what has the focus keeps it. */
function list(id, items, none) {
  const list = at(id);
  const key = JSON.stringify(items.map((item) => item.textContent));
  if (list.dataset.key === key) return;
  list.dataset.key = key;
  list.replaceChildren(...(items.length ? items : [make("li", none)]));
}

function connection(of, now) {
  const good = of.state === "connected" || of.state === "static";
  const state = make("span", of.state);
  state.className = good ? "good" : "bad";
  const head = make("p", "", make("strong", of.portal), " ", state);
  const refreshed = of.refreshed_at ? `last refresh ${ago(now, of.refreshed_at)}` : "never refreshed here";
  const counts = Object.entries(of.refreshes).map(([result, count]) => `${result} ${count}`).join(", ");
  const item = make("li", "", head, make("p", [refreshed, counts].filter(Boolean).join("; ")));
  if (of.problem) item.append(make("p", of.problem));
  for (const gap of of.gated) item.append(make("p", `Cannot ${gap}`));
  if (of.state !== "static") {
    for (const workspace of of.workspaces) {
      const link = make("a", `${good ? "Install again" : "Install"} for ${workspace}`);
      link.href = `oauth/install?workspace=${encodeURIComponent(workspace)}`;
      item.append(make("p", "", link));
    }
  }
  return item;
}

function advance(of, now) {
  const who = of.contact_id ? `contact ${of.contact_id}` : of.email || `the deal's own links`;
  const what = of.link_tag ? `tag ${of.link_tag}` : `link ${of.link}`;
  const head = make("p", "", make("strong", `Deal ${of.deal_id}`), ` ${of.from_stage} → ${of.to_stage}${of.shadow ? " (shadow)" : ""}`);
  const why = `${who}: ${of.count} clicks on ${what} within ${length(of.window_ms)}, ${of.threshold} are enough (rule ${of.rule})`;
  const last = `last click ${of.last_click.id}, ${ago(now, of.last_click.ts)}`;
  return make("li", "", head, make("p", why), make("p", last));
}

/** How a topic stands in ClickHouse. */
function clickhouse(of, now) {
  const last = of.last_at ? `the last batch ${ago(now, of.last_at)}` : "no batch since the start";
  const parts = [`${of.rows} rows, ${of.lag} records wait, ${last}`];
  if (of.refused) parts.push(`${of.refused} refused for good`);
  if (of.lost) parts.push(`up to ${of.lost} deleted unread`);
  const trouble = of.trouble;
  const who = { transient: "still trying", rows: "looking for the row", setup: "somebody must act, see clickline doctor" };
  const why = trouble && (trouble.code ? `refused with code ${trouble.code}` : "no answer");
  if (trouble) parts.push(`${why} for ${length(Math.max(0, now - trouble.since))}: ${who[trouble.class] ?? trouble.class}`);
  return [`ClickHouse, ${of.topic}`, parts.join("; ")];
}

function show(status) {
  const now = status.at;
  const clicks = status.read.clicks;
  const seconds = before ? (now - before.at) / 1000 : 0;
  const rate = seconds > 0 ? Math.max(0, (clicks - before.clicks) / seconds) : 0;
  if (!before || seconds > 0) {
    before = { at: now, clicks };
    const lag = status.partitions.reduce((sum, of) => sum + of.lag, 0);
    const delay = status.frontier.delay_ms / 1000;
    draw("rate", rate);
    draw("lag", lag);
    draw("delay", delay);
    at("rate").textContent = rate.toFixed(1);
    at("lag").textContent = String(lag);
    at("delay").textContent = length(status.frontier.delay_ms);
  }
  const state = status.draining ? "Stopping" : status.ready ? "Running" : "Catching up";
  if (at("state").textContent !== state) at("state").textContent = state;
  const hubspot = status.sinks.hubspot;
  const facts = [
    ["Clicks read", clicks],
    ["Clicks held for a form", status.kept.held_clicks],
    ["Live counts", status.kept.live_keys],
    ["State", `${(status.kept.bytes / 1048576).toFixed(1)} MiB`],
    ["Transactions", status.sinks.outbox.transactions],
  ];
  if (hubspot) facts.push(["Delivered to HubSpot", hubspot.delivered], ["Waiting for HubSpot", hubspot.lag], ["Parked", hubspot.parked]);
  if (hubspot) for (const of of hubspot.portals) facts.push([`Quota left, ${of.portal}`, `${of.window_left} now, ${of.daily_left ?? "?"} today`]);
  for (const of of status.sinks.clickhouse ?? []) facts.push(clickhouse(of, now));
  at("facts").replaceChildren(...facts.map(([name, value]) => make("div", "", make("dt", name), make("dd", String(value)))));
  list("connections", status.connections.map((of) => connection(of, now)), "No HubSpot account is connected by this process.");
  const rule = (of) =>
    make("li", "", make("p", "", make("strong", of.name), ` ${of.workspace}, ${of.mode}`), make("p", `hot for ${of.hot}, fired ${of.fired} times since the start`));
  list("rules", status.rules.map(rule), "There are no rules.");
  list("advances", status.advances.map((of) => advance(of, now)), "None since the start.");
  const dead = status.dead_letters;
  const unreadable = Object.entries(dead.unreadable).map(([reason, count]) => `${reason} ${count}`).join(", ");
  const oldest = dead.oldest_at ? `, the oldest ${ago(now, dead.oldest_at)}` : "";
  at("letters-open").textContent = `${dead.open} refused by HubSpot are open${oldest}.` + (unreadable ? ` Unreadable since the start: ${unreadable}.` : "");
}

async function ask() {
  try {
    const answer = await fetch("status", { headers: { accept: "application/json" } });
    if (answer.status === 401) return location.assign("login");
    if (answer.ok) show(await answer.json());
    else at("state").textContent = `The job answers ${answer.status}`;
  } catch {
    at("state").textContent = "The job does not answer";
  }
  setTimeout(ask, 1000);
}

async function decide(id, decision, buttons) {
  buttons.forEach((button) => (button.disabled = true));
  const body = JSON.stringify({ id, decision });
  try {
    const answer = await fetch("dead-letters/decide", { method: "POST", headers: { "content-type": "application/json", "x-clickline-word": word }, body });
    const text = await answer.text();
    let said = {};
    try {
      said = JSON.parse(text);
    } catch {
      said = { problem: text };
    }
    await letters(said.said || said.problem);
  } catch {
    at("letters-said").textContent = "The job does not answer";
    buttons.forEach((button) => (button.disabled = false));
  }
}

function letter(of) {
  const buttons = [make("button", "Replay"), make("button", "Drop")];
  buttons.forEach((button) => {
    button.type = "button";
    const decision = button.textContent.toLowerCase();
    button.setAttribute("aria-label", `${button.textContent} dead letter ${of.id}`);
    button.addEventListener("click", () => decide(of.id, decision, buttons));
  });
  const where = `${of.reason}, from ${of.source}${of.portal ? `, portal ${of.portal}` : ""}, ${new Date(of.at).toISOString()}`;
  const record = make("details", "", make("summary", "Record"), make("pre", of.record));
  return make("li", "", make("p", "", make("strong", of.id), ` ${where}`), make("p", of.detail), record, make("p", "", ...buttons));
}

async function letters(said) {
  const says = at("letters-said");
  try {
    const answer = await fetch("dead-letters");
    const found = await answer.json();
    if (!answer.ok) {
      says.textContent = found.problem;
      return;
    }
    at("letters").replaceChildren(...found.letters.map(letter));
    says.textContent = [said, found.open === 1 ? "1 is open." : `${found.open} are open.`].filter(Boolean).join("; ");
    // The button that was pressed is gone: go on from a place that is there.
    if (said) at("letters-load").focus();
  } catch {
    says.textContent = "The job does not answer";
  }
}

at("letters-load").addEventListener("click", () => letters(""));
ask();
