// Uses the dashboard as an operator does, in a real Chromium: dashboard.mjs ADMIN TOKEN READER EDGE TOOLS DIRECTORY. Says each step, and fails by its exit code.

import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import https from "node:https";
import assert from "node:assert/strict";

const [admin, token, reader, edge, tools, directory] = process.argv.slice(2);
const require = createRequire(`${tools}/node_modules/`);
const { chromium } = require("playwright-core");
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const HOSTILE = `"><img src=x onerror="window.hurt=1"><script>window.hurt=1</script>\u202e'\${7*7}`;
const step = (text) => console.log(text);

const call = (key) => new Promise((resolve, reject) => {
  const request = https.get(`${edge}/any/x`, { headers: { "X-API-Key": key, Host: "localhost" }, rejectUnauthorized: false }, (answer) => {
    answer.resume();
    answer.on("end", () => resolve(answer.statusCode));
  });
  request.on("error", reject);
});

const browser = await chromium.launch({ executablePath: process.env.CHROMIUM || "/usr/bin/chromium", args: ["--no-sandbox"] });
try {
  const problems = [];
  const elsewhere = [];
  const open = async (options) => {
    const context = await browser.newContext({ bypassCSP: false, ...options });
    const page = await context.newPage();
    page.setDefaultTimeout(120_000);
    page.on("console", (message) => { if (["error", "warning"].includes(message.type())) problems.push(message.text()); });
    page.on("pageerror", (error) => problems.push(String(error)));
    page.on("request", (request) => { if (!request.url().startsWith(admin)) elsewhere.push(request.url()); });
    return page;
  };
  const accessible = async (page, where) => {
    // By the protocol, not by a script element, so that the page's own policy stays as it is.
    await page.evaluate(axe);
    const { violations } = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ["violations"] }));
    assert.deepEqual(violations.map((one) => `${where}: ${one.id} ${one.nodes.map((node) => node.target.join(" ")).join(", ")}`), []);
  };
  const log_in = async (page, text) => {
    await page.goto(`${admin}/`);
    await page.getByLabel("Admin token").fill(text);
    await page.keyboard.press("Enter");
    await page.getByRole("button", { name: "Log out" }).waitFor();
  };
  const go = async (page, name) => {
    await page.getByRole("navigation").getByRole("link", { name, exact: true }).click();
    await page.getByRole("heading", { name, level: 1 }).waitFor();
  };

  const page = await open({ viewport: { width: 1200, height: 900 } });
  await page.goto(`${admin}/`);
  await page.getByRole("heading", { name: "Log in" }).waitFor();
  await accessible(page, "log in");
  await log_in(page, token);
  await page.getByRole("heading", { name: "Overview", level: 1 }).waitFor();
  step("logged in");
  assert.ok(!(await page.evaluate(() => document.cookie)), "no script can read the session");

  // By the keyboard alone: to the form, through it, and to the key that it shows.
  await page.getByRole("link", { name: "Keys", exact: true }).focus();
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name: "Keys", level: 1 }).waitFor();
  await page.getByRole("button", { name: "Create a key" }).focus();
  await page.keyboard.press("Enter");
  await page.getByLabel("Name").waitFor();
  await page.getByLabel("Name").focus();
  await page.keyboard.type("made in the page");
  await accessible(page, "the form");
  await page.keyboard.press("Enter");
  const key = await page.locator("#secret").innerText();
  assert.match(key, /^fp_live_/);
  await accessible(page, "the secret");
  assert.equal(await call(key), 200, "a key that was made in the page works");
  step("created a key, and the edge takes it");
  await page.getByRole("button", { name: "Copy" }).click();
  await page.getByRole("button", { name: "Done" }).click();
  assert.ok(!(await page.content()).includes(key), "shown once");

  // Hostile names, in every field that there is.
  await page.getByRole("button", { name: "Create a key" }).click();
  await page.getByLabel("Name").fill(HOSTILE);
  await page.keyboard.press("Enter");
  await page.locator("#secret").waitFor();
  await page.getByRole("button", { name: "Done" }).click();
  await page.getByRole("link", { name: "<img src=x", exact: false }).first().waitFor();
  await page.getByRole("link", { name: "<img src=x", exact: false }).first().click();
  await page.getByRole("heading", { name: "Key", level: 1 }).waitFor();
  for (const name of ["Overview", "Keys", "Tenants and plans", "Alerts", "Audit"]) {
    await go(page, name);
    await accessible(page, name);
  }
  assert.equal(await page.evaluate(() => window.hurt), undefined, "no name became a script");
  assert.equal(await page.locator("main img, main script").count(), 0);
  step("hostile names are text");

  // Figures move without a reload.
  await go(page, "Overview");
  const shown = () => page.locator("dt", { hasText: /^Requests$/ }).locator("xpath=../dd").innerText();
  const before = Number((await shown()).replace(/\D/g, ""));
  for (let times = 0; times < 3; times++) await call(key);
  await page.waitForFunction((least) => {
    const tile = [...document.querySelectorAll("dt")].find((name) => name.textContent === "Requests");
    return Number(tile.nextElementSibling.textContent.replace(/\D/g, "")) >= least;
  }, before + 3);
  await page.getByRole("region", { name: "Upstreams" }).getByRole("cell", { name: "up", exact: true }).first().waitFor();
  step("figures are live");
  await page.screenshot({ path: `${directory}/overview-light.png`, fullPage: true });

  // One key's page: usage, windows, and its end, which has to be confirmed.
  await go(page, "Keys");
  await page.getByRole("link", { name: "made in the page" }).click();
  await page.getByRole("heading", { name: "Windows now" }).waitFor();
  await page.getByRole("img", { name: "Requests by the hour" }).waitFor();
  await accessible(page, "one key");
  await page.screenshot({ path: `${directory}/key-light.png`, fullPage: true });
  await page.getByRole("button", { name: "Deactivate" }).click();
  await page.getByRole("button", { name: "Activate", exact: true }).waitFor();
  assert.equal(await call(key), 401);
  await page.getByRole("button", { name: "Activate", exact: true }).click();
  await page.getByRole("button", { name: "Deactivate" }).waitFor();
  await page.getByRole("button", { name: "Regenerate" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Regenerate" }).click();
  const second = await page.locator("#secret").innerText();
  assert.deepEqual([await call(key), await call(second)], [401, 200]);
  await page.getByRole("button", { name: "Done" }).click();
  await page.getByRole("button", { name: "Revoke" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Cancel" }).click();
  assert.equal(await call(second), 200, "cancelled is not revoked");
  await page.getByRole("button", { name: "Revoke" }).click();
  await accessible(page, "the confirmation");
  await page.getByRole("dialog").getByRole("button", { name: "Revoke for good" }).click();
  await page.locator("dd", { hasText: "revoked" }).waitFor();
  assert.equal(await call(second), 401, "revoked in the page, refused at the edge");
  step("deactivated, regenerated and revoked in the page");

  // In the dark, on a phone.
  const phone = await open({ colorScheme: "dark", viewport: { width: 360, height: 740 }, isMobile: true, hasTouch: true });
  await log_in(phone, token);
  for (const name of ["Overview", "Keys", "Tenants and plans", "Alerts", "Audit"]) {
    await go(phone, name);
    await accessible(phone, `${name}, dark, phone`);
    const wide = await phone.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
    assert.ok(wide <= 0, `${name} is wider than the phone by ${wide}`);
  }
  await phone.screenshot({ path: `${directory}/audit-dark-phone.png`, fullPage: true });
  step("dark, and on a phone");

  // Who may only read is offered nothing else.
  const other = await open({});
  await log_in(other, reader);
  await go(other, "Keys");
  assert.equal(await other.getByRole("button", { name: "Create a key" }).count(), 0);
  await other.getByRole("button", { name: "Log out" }).click();
  await other.getByRole("heading", { name: "Log in" }).waitFor();
  step("a reader reads");

  assert.deepEqual(problems, [], "the console is quiet");
  assert.deepEqual(elsewhere, [], "nothing is fetched from elsewhere");
  step("done");
} finally {
  await browser.close();
}
