// Uses the dashboard as an operator does, in a real Chromium: dashboard.mjs ADMIN TOKEN READER OWN EDGE TOOLS SCREENS (OWN is a token of tenant acme). Says each step, leaves pictures in SCREENS, and fails by its exit code.

import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import https from "node:https";
import assert from "node:assert/strict";

const [admin, token, reader, own, edge, tools, screens] = process.argv.slice(2);
const require = createRequire(`${tools}/node_modules/`);
const { chromium } = require("playwright-core");
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const HOSTILE = `"><img src=x onerror="window.hurt=1"><script>window.hurt=1</script>'\${7*7}`;
const begun = Date.now();
const step = (text) => console.log(`${((Date.now() - begun) / 1000).toFixed(1)} s: ${text}`);
const shot = (page, name, fullPage = true) => page.screenshot({ path: `${screens}/${name}.png`, fullPage });

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
  const open = async ({ noisy, ...options }) => {
    const context = await browser.newContext({ bypassCSP: false, permissions: ["clipboard-read", "clipboard-write"], ...options });
    const page = await context.newPage();
    page.setDefaultTimeout(120_000);
    page.on("console", (message) => { if (!noisy && ["error", "warning"].includes(message.type())) problems.push(message.text()); });
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
  await shot(page, "log-in-light");
  await log_in(page, token);
  await page.getByRole("heading", { name: "Overview", level: 1 }).waitFor();
  step("logged in");
  assert.ok(!(await page.evaluate(() => document.cookie)), "no script can read the session");

  // By the keyboard alone: past the header, to the form, through it, and to the key that it shows.
  await page.keyboard.press("Shift+Tab");
  const focused = () => page.evaluate(() => document.activeElement.textContent);
  while ((await focused()) !== "Skip to content") await page.keyboard.press("Shift+Tab");
  while ((await focused()) !== "Keys") await page.keyboard.press("Tab");
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name: "Keys", level: 1 }).waitFor();
  await page.getByRole("button", { name: "Create a key" }).focus();
  await page.keyboard.press("Enter");
  await page.getByLabel("Name").waitFor();
  await page.getByLabel("Name").focus();
  await page.keyboard.type("made in the page");
  await accessible(page, "the form");
  await shot(page, "create-light", false);
  await page.keyboard.press("Enter");
  const key = await page.locator("#secret").innerText();
  assert.match(key, /^fp_live_/);
  await accessible(page, "the secret");
  await shot(page, "secret-light", false);
  assert.equal(await call(key), 200, "a key that was made in the page works");
  step("created a key, and the edge takes it");
  await page.getByRole("button", { name: "Copy" }).click();
  await page.getByRole("dialog").getByText("Copied.").waitFor();
  assert.equal(await page.evaluate(() => navigator.clipboard.readText()), key);
  await page.keyboard.press("Escape");
  await page.getByRole("dialog").waitFor({ state: "detached" });
  await page.getByRole("link", { name: "made in the page" }).waitFor();
  assert.ok(!(await page.content()).includes(key), "shown once, however it is closed");
  const row = (name) => page.getByRole("row").filter({ has: page.getByRole("link", { name, exact: true }) });
  await go(page, "Overview");
  await go(page, "Keys");
  const cells = await row("made in the page").getByRole("cell").allInnerTexts();
  assert.equal(cells[1], "secret");
  assert.equal(cells[2], `fp_live_…${key.slice(-4)}`);
  assert.deepEqual([cells[3], cells[6], cells[7], cells[8]], ["acme", "active", "1", "100 %"]);
  assert.match(cells[4], /^\d{4}-\d\d-\d\d \d\d:\d\d$/);
  assert.match(cells[5], /^\d{4}-\d\d-\d\d \d\d:\d\d$/, "it was used");

  // What is refused is said where it was asked, and nothing is lost of it.
  const noisy = await open({ noisy: true, viewport: { width: 1200, height: 900 } });
  await noisy.goto(`${admin}/`);
  await noisy.getByLabel("Admin token").fill("adm_full_nothing");
  await noisy.keyboard.press("Enter");
  await noisy.getByRole("alert").getByText("This token opens nothing").waitFor();
  await shot(noisy, "log-in-refused-light");
  await log_in(noisy, token);
  await go(noisy, "Keys");
  await noisy.getByRole("button", { name: "Create a key" }).click();
  await noisy.getByLabel("Name").fill("refused");
  await noisy.getByLabel("Scopes").fill("not:granted{}");
  await noisy.keyboard.press("Enter");
  await noisy.getByRole("dialog").getByRole("status").filter({ hasText: "scope" }).waitFor();
  await accessible(noisy, "a refusal");
  await shot(noisy, "refused-light", false);
  assert.equal(await noisy.getByLabel("Name").inputValue(), "refused");
  // What would turn the direction of all that follows is no name.
  await noisy.getByLabel("Scopes").fill("");
  await noisy.getByLabel("Name").fill("a\u202eb");
  await noisy.keyboard.press("Enter");
  await noisy.getByRole("dialog").getByRole("status").filter({ hasText: "character 2 is U+202E" }).waitFor();
  await noisy.getByRole("button", { name: "Cancel" }).click();
  await noisy.route("**/v1/alerts", (route) => route.abort());
  await noisy.getByRole("navigation").getByRole("link", { name: "Alerts" }).click();
  await noisy.getByRole("alert").getByText("The gateway does not answer.").waitFor();
  await shot(noisy, "no-answer-light", false);
  await noisy.unroute("**/v1/alerts");
  await noisy.getByRole("button", { name: "Try again" }).click();
  await noisy.getByRole("cell", { name: "key.seen_in_clear" }).waitFor();
  // Even if something got in, the policy lets it do nothing.
  const inline = await noisy.evaluate(() => {
    const attempts = [
      () => { const script = document.createElement("script"); script.textContent = "window.inline = 1"; document.body.append(script); },
      () => { const script = document.createElement("script"); script.append("window.inline = 1"); document.body.append(script); },
      () => { const image = document.createElement("img"); image.setAttribute("onerror", "window.inline = 1"); image.src = "nothing"; document.body.append(image); },
      () => { document.body.insertAdjacentHTML("beforeend", "<img src=nothing onerror='window.inline = 1'>"); },
    ];
    for (const attempt of attempts) try { attempt(); } catch { /* refused at once */ }
    return new Promise((resolve) => setTimeout(() => resolve(window.inline), 200));
  });
  assert.equal(inline, undefined, "the policy is in force");
  step("refusals and failures are told where they happen");

  // Hostile names, in every field that there is.
  await page.getByRole("button", { name: "Create a key" }).click();
  await page.getByLabel("Name").fill(HOSTILE);
  await page.keyboard.press("Enter");
  await page.locator("#secret").waitFor();
  await page.getByRole("button", { name: "Done" }).click();
  await page.getByRole("link", { name: "<img src=x", exact: false }).first().waitFor();
  await page.getByRole("link", { name: "</script>'${7*7}" }).waitFor();
  // One that is stored since before that rule is shown as what it is.
  await page.getByRole("link", { name: "old\\u{202e}mark" }).waitFor();
  await page.getByRole("link", { name: "<img src=x", exact: false }).first().click();
  await page.getByRole("heading", { name: "Key", level: 1 }).waitFor();
  for (const name of ["Overview", "Keys", "Tenants and plans", "Alerts", "Audit"]) {
    await go(page, name);
    await accessible(page, name);
    await shot(page, `${name.split(" ")[0].toLowerCase()}-light`);
  }
  assert.ok((await page.locator("main").innerText()).includes("name: \"><img src=x"), "the audit page has it as text too");
  const wide = await page.evaluate(() => [...document.querySelectorAll(".scroll")].every((one) => one.scrollWidth <= one.clientWidth));
  assert.ok(wide, "the audit page fits");
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
  await shot(page, "overview-light");

  // One key's page: usage, windows, and its end, which has to be confirmed.
  await go(page, "Keys");
  await page.getByRole("link", { name: "made in the page" }).click();
  await page.getByRole("heading", { name: "Windows now" }).waitFor();
  await page.getByRole("img", { name: "Requests by the hour" }).waitFor();
  await accessible(page, "one key");
  await shot(page, "key-light");
  assert.equal(await page.getByRole("img", { name: "Requests by the hour" }).locator("rect.bar").last().getAttribute("height"), "114", "this hour is the highest");
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
  await shot(page, "revoke-light", false);
  await page.getByRole("dialog").getByRole("button", { name: "Revoke for good" }).click();
  await page.locator("dd", { hasText: "revoked" }).waitFor();
  assert.equal(await call(second), 401, "revoked in the page, refused at the edge");
  step("deactivated, regenerated and revoked in the page");

  // Tenants and plans; the windows of a key of a small plan, which move while they are looked at.
  await go(page, "Keys");
  await page.getByRole("button", { name: "Create a key" }).click();
  await page.getByLabel("Name").fill("small");
  await page.getByLabel("Tenant", { exact: true }).selectOption("initech");
  await page.getByLabel("Type").selectOption("secret");
  await page.getByLabel("Ends").selectOption("never");
  await page.keyboard.press("Tab");
  await page.getByRole("dialog").getByRole("button", { name: "Create" }).click();
  const small = await page.locator("#secret").innerText();
  await page.getByRole("button", { name: "Done" }).click();
  await page.getByRole("link", { name: "small", exact: true }).click();
  await page.locator("dt", { hasText: "Ends" }).locator("xpath=../dd").filter({ hasText: "never" }).waitFor();
  const quota = page.getByRole("region", { name: "Windows" }).getByRole("row").filter({ hasText: "5/hour" });
  assert.equal(await call(small), 200);
  await quota.filter({ hasText: /5\/hour\s*1\s*4/ }).waitFor();
  await page.evaluate(() => { window.stayed = true; });
  assert.equal(await call(small), 200);
  await quota.filter({ hasText: /5\/hour\s*2\s*3/ }).waitFor();
  assert.ok(await page.evaluate(() => window.stayed), "without a reload");
  await page.locator("dt", { hasText: "Last used" }).locator("xpath=../dd").filter({ hasText: /^\d{4}-/ }).waitFor();
  await shot(page, "key-windows-light");
  await go(page, "Tenants and plans");
  const tenant = page.getByRole("region", { name: "Tenants" }).getByRole("row").filter({ hasText: "initech" });
  assert.match(await tenant.innerText(), /small/);
  assert.match(await page.getByRole("region", { name: "Plans" }).getByRole("row").filter({ hasText: "small" }).innerText(), /5\/hour/);
  await tenant.getByRole("button", { name: "Suspend" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Suspend" }).click();
  await tenant.getByRole("button", { name: "Resume" }).waitFor();
  assert.equal(await call(small), 403);
  await tenant.getByRole("button", { name: "Resume" }).click();
  await tenant.getByRole("button", { name: "Suspend" }).waitFor();
  assert.equal(await call(small), 200);
  step("windows are live, a tenant is suspended and resumed");

  // What was done stands in the log, whole; what should be known at once among the alerts.
  await go(page, "Audit");
  await page.getByText(/^\d+ lines since \d{4}-\d\d-\d\d \d\d:\d\d, all as they were written\.$/).waitFor();
  await page.getByRole("row").filter({ hasText: "key-revoke" }).filter({ hasText: "status: active → revoked" }).waitFor();
  await page.getByRole("row").filter({ hasText: "tenant-suspend" }).filter({ hasText: "initech" }).waitFor();
  await shot(page, "audit-light");
  await go(page, "Alerts");
  await page.getByRole("row").filter({ hasText: "key.seen_in_clear" }).filter({ hasText: "was sent in clear" }).waitFor();
  await shot(page, "alerts-light");
  await go(page, "Overview");
  await page.getByRole("row").filter({ hasText: "key_revoked" }).waitFor();
  await page.getByRole("row").filter({ hasText: "tenant_suspended" }).waitFor();
  step("audit, alerts and refusals tell of it");

  // In the dark.
  const dark = await open({ colorScheme: "dark", viewport: { width: 1200, height: 900 } });
  await log_in(dark, token);
  await dark.getByRole("cell", { name: "up", exact: true }).waitFor();
  await accessible(dark, "overview, dark");
  await shot(dark, "overview-dark");
  await go(dark, "Keys");
  await dark.getByRole("link", { name: "small", exact: true }).click();
  await dark.getByRole("button", { name: "Revoke" }).click();
  await accessible(dark, "the confirmation, dark");
  await shot(dark, "revoke-dark", false);
  // Nothing is confirmed by closing it.
  await dark.keyboard.press("Escape");
  await dark.getByRole("dialog").waitFor({ state: "detached" });
  assert.equal(await call(small), 200);

  // In the dark, on a phone.
  const phone = await open({ colorScheme: "dark", viewport: { width: 360, height: 740 }, isMobile: true, hasTouch: true });
  await log_in(phone, token);
  for (const name of ["Overview", "Keys", "Tenants and plans", "Alerts", "Audit"]) {
    await go(phone, name);
    await accessible(phone, `${name}, dark, phone`);
    const wide = await phone.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
    assert.ok(wide <= 0, `${name} is wider than the phone by ${wide}`);
    await shot(phone, `${name.split(" ")[0].toLowerCase()}-dark-phone`, name !== "Keys");
  }
  await go(phone, "Keys");
  await phone.getByRole("link", { name: "small", exact: true }).click();
  await phone.getByRole("heading", { name: "Windows now" }).waitFor();
  await accessible(phone, "one key, dark, phone");
  await shot(phone, "key-dark-phone");
  step("dark, and on a phone");

  // Who may only read is offered nothing else.
  const other = await open({});
  await log_in(other, reader);
  await go(other, "Keys");
  assert.equal(await other.getByRole("button", { name: "Create a key" }).count(), 0);
  await other.getByRole("link", { name: "small", exact: true }).click();
  await other.getByRole("heading", { name: "Windows now" }).waitFor();
  assert.equal(await other.getByRole("button", { name: /Revoke|Regenerate|Deactivate/ }).count(), 0);
  await go(other, "Tenants and plans");
  assert.equal(await other.getByRole("button", { name: "Suspend" }).count(), 0);
  await other.getByRole("button", { name: "Log out" }).click();
  await other.getByRole("heading", { name: "Log in" }).waitFor();
  step("a reader reads");

  // A tenant's own token: its keys, and nothing of anybody else.
  const acme = await open({});
  await log_in(acme, own);
  await acme.getByRole("heading", { name: "Keys", level: 1 }).waitFor();
  assert.deepEqual(await acme.getByRole("navigation").getByRole("link").allInnerTexts(), ["Keys", "Tenants and plans"]);
  await acme.getByRole("link", { name: "made in the page" }).waitFor();
  assert.equal(await acme.getByRole("link", { name: "small", exact: true }).count(), 0);
  await acme.getByRole("button", { name: "Create a key" }).click();
  await acme.getByLabel("Tenant", { exact: true }).waitFor();
  assert.deepEqual(await acme.getByLabel("Tenant", { exact: true }).locator("option").allInnerTexts(), ["acme"]);
  await acme.getByRole("button", { name: "Cancel" }).click();
  step("a tenant sees its own");

  // Many keys are shown by the page.
  await page.evaluate(async () => {
    const headers = { "X-Portcullis-Page": "1", "Content-Type": "application/json" };
    const keys = Array.from({ length: 105 }, (_, number) => ({ tenant: "bravo", name: `many ${number}`, inherit: true, value: `a-key-of-elsewhere-with-the-number-${number}-${crypto.randomUUID()}` }));
    const answer = await fetch("/v1/imports", { method: "POST", headers, body: JSON.stringify({ keys }) });
    if (!answer.ok) throw new Error(await answer.text());
  });
  await go(page, "Keys");
  assert.equal(await page.locator("tbody tr").count(), 100);
  await page.getByRole("link", { name: "Next page" }).click();
  await page.getByRole("link", { name: "many 104", exact: true }).waitFor();
  assert.equal(await page.locator("tbody tr").count(), 10);
  await page.getByRole("link", { name: "First page" }).click();
  await page.getByRole("link", { name: "made in the page" }).waitFor();
  step("many keys come by the page");

  assert.deepEqual(problems, [], "the console is quiet");
  assert.deepEqual(elsewhere, [], "nothing is fetched from elsewhere");
  step("done");
} finally {
  await browser.close();
}
