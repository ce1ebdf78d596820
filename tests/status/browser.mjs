// A real headless Chromium over its debugging pipe, and one page in it.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking"];

/** Waits, a minute at most, until what `ask` gives is true. */
export async function until(what, ask) {
  for (const end = Date.now() + 60000; Date.now() < end; await new Promise((again) => setTimeout(again, 50))) if (await ask()) return;
  assert.fail(`waited a minute for ${what}`);
}

/** Starts the browser; `see` gives the value of an expression in the page, `key` presses one, `events` is what the browser tells. */
export async function open() {
  const profile = mkdtempSync(join(tmpdir(), "clickline-page-"));
  const browser = spawn(process.env.CHROMIUM ?? "chromium", [...FLAGS, "--remote-debugging-pipe", `--user-data-dir=${profile}`, "about:blank"], {
    stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"],
  });
  const waiting = new Map();
  const events = [];
  let serial = 0;
  let session;
  let rest = "";
  browser.on("error", (error) => { console.error(`Chromium does not start: ${error.message}`); process.exit(1); });
  browser.stdio[4].on("data", (part) => {
    const messages = (rest + part).split("\0");
    rest = messages.pop();
    for (const message of messages.map((text) => JSON.parse(text))) {
      if (message.id) waiting.get(message.id)?.(message);
      else events.push(message);
    }
  });
  const call = (method, params = {}) => new Promise((done, failed) => {
    const id = ++serial;
    waiting.set(id, (answer) => (answer.error ? failed(new Error(`${method}: ${answer.error.message}`)) : done(answer.result)));
    browser.stdio[3].write(JSON.stringify({ id, method, params, sessionId: session }) + "\0");
  });
  const see = async (expression) => {
    const { result, exceptionDetails } = await call("Runtime.evaluate", { expression, returnByValue: true, awaitPromise: true });
    assert.equal(exceptionDetails, undefined, `${expression}: ${exceptionDetails?.text}`);
    return result.value;
  };
  const key = async (name, code, text) => {
    for (const type of ["keyDown", "keyUp"]) await call("Input.dispatchKeyEvent", { type, key: name, code: name, windowsVirtualKeyCode: code, text: type === "keyDown" ? text : undefined });
  };
  const close = async () => {
    const ended = new Promise((done) => browser.on("exit", done));
    browser.kill();
    await ended;
    rmSync(profile, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 });
  };
  const { targetInfos } = await call("Target.getTargets");
  const page = targetInfos.find((of) => of.type === "page");
  session = (await call("Target.attachToTarget", { targetId: page.targetId, flatten: true })).sessionId;
  for (const domain of ["Page", "Runtime", "Log", "Network"]) await call(`${domain}.enable`);
  return { call, see, key, events, close };
}
