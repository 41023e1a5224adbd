// The dashboard: one page over the API under /v1/. Every text becomes a text node; nothing is ever read as HTML.

const $ = (id) => document.getElementById(id);
const LIVE_MILLIS = 2000;
let me = null;
let live = null;

// ── Making elements ──────────────────────────────────────────────────────────────────────────────────────────────────────

function make(name, attributes, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (key === "on") for (const [event, act] of Object.entries(value)) element.addEventListener(event, act);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(key, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined).map(text_or_node));
  return element;
}

function text_or_node(child) {
  return child instanceof Node ? child : document.createTextNode(String(child));
}

function table(caption, columns, rows, empty) {
  const head = columns.map(([title, kind]) => make("th", { scope: "col", class: kind }, title));
  const body = rows.map((row) => make("tr", null, row.map((cell, at) => make("td", { class: columns[at][1] }, cell))));
  if (!rows.length) body.push(make("tr", null, make("td", { colspan: columns.length, class: "quiet" }, empty || "none")));
  return make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    make("table", null, make("caption", null, caption), make("thead", null, make("tr", null, head)), make("tbody", null, body)));
}

function tiles(pairs) {
  return make("dl", { class: "tiles" }, pairs.map(([name, value]) => make("div", null, make("dt", null, name), make("dd", null, value))));
}

// Bars of [label, height, part that failed]; what it shows stands in its label too.
function chart(label, bars) {
  const space = "http://www.w3.org/2000/svg";
  const [width, height] = [600, 120];
  const svg = document.createElementNS(space, "svg");
  for (const [key, value] of Object.entries({ viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img", class: "chart", "aria-label": label })) svg.setAttribute(key, value);
  const most = Math.max(1, ...bars.map((bar) => bar[1]));
  const step = width / Math.max(1, bars.length);
  const rectangle = (kind, x, y, tall, title) => {
    const bar = document.createElementNS(space, "rect");
    for (const [key, value] of Object.entries({ class: kind, x, y, width: Math.max(1, step - 2), height: tall })) bar.setAttribute(key, value);
    const name = document.createElementNS(space, "title");
    name.textContent = title;
    bar.append(name);
    svg.append(bar);
  };
  bars.forEach(([title, count, faults], at) => {
    const tall = (count / most) * (height - 6);
    rectangle("bar", at * step + 1, height - tall, tall, `${title}: ${count}`);
    const part = ((faults || 0) / most) * (height - 6);
    if (part) rectangle("fault", at * step + 1, height - part, part, `${title}: ${faults} failed`);
  });
  return make("figure", null, svg, make("figcaption", { class: "quiet" }, label));
}

const time = (text) => (text ? new Date(text).toLocaleString() : "never");
const count = (number) => Number(number || 0).toLocaleString();
const percent = (number) => (number === null || number === undefined ? "–" : `${number} %`);
const button = (text, act, kind) => make("button", { type: "button", class: kind, on: { click: act } }, text);
const state = (word) => make("span", { class: word === "active" || word === "up" ? "good" : "bad" }, word);
const writes = () => me.role !== "read-only";
const whole = () => me.role !== "tenant";

function say(text) {
  $("said").textContent = text;
  clearTimeout(say.later);
  say.later = setTimeout(() => { $("said").textContent = ""; }, 6000);
}

// ── The API ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

async function api(method, path, body) {
  const headers = { "X-Portcullis-Page": "1" };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const answer = await fetch(path, { method, headers, credentials: "same-origin", body: body === undefined ? undefined : JSON.stringify(body) });
  const said = answer.status === 204 ? null : await answer.json();
  if (answer.status === 401 && me) {
    leave();
    throw new Error("The session has ended.");
  }
  if (!answer.ok) throw new Error(said.detail || said.title);
  return said;
}

// ── Dialogs ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

function dialog(title, ...content) {
  const box = $("dialog");
  box.replaceChildren(make("h2", { id: "dialog-title" }, title), ...content);
  if (!box.open) box.showModal();
  return box;
}

function confirm_then(title, text, label, act) {
  dialog(title, make("p", null, text), make("div", { class: "row" },
    button("Cancel", () => $("dialog").close()),
    button(label, async () => { $("dialog").close(); await attempt(act); }, "final")));
}

async function attempt(act) {
  try {
    await act();
  } catch (error) {
    say(error.message);
  }
}

// The one time that a text is shown.
function show_secret(title, key) {
  const secret = make("code", { class: "secret", id: "secret", tabindex: "0" }, key.text);
  dialog(title, make("p", null, "This is the only time that it is shown. It is kept nowhere."), secret,
    (key.notes || []).map((note) => make("p", { class: "quiet" }, note)),
    make("div", { class: "row" },
      button("Copy", async () => {
        try {
          await navigator.clipboard.writeText(key.text);
          say("Copied.");
        } catch {
          getSelection().selectAllChildren(secret);
          say("Selected: copy it with the keyboard.");
        }
      }, "main"),
      button("Done", () => { $("dialog").close(); $("dialog").replaceChildren(); route(); })));
}

// ── Pages ────────────────────────────────────────────────────────────────────────────────────────────────────────────────

async function overview() {
  const spots = { tiles: make("div"), rate: make("div"), refusals: make("div"), latency: make("div"), upstreams: make("div") };
  const rates = Array.from({ length: 60 }, () => ["requests a second", 0]);
  let before = null;
  const draw = (now) => {
    const seconds = before ? (now.at_unix_millis - before.at_unix_millis) / 1000 : 0;
    const rate = seconds > 0 ? Math.max(0, (now.requests - before.requests) / seconds) : 0;
    if (before) rates.push(["requests a second", Math.round(rate * 10) / 10]);
    if (rates.length > 60) rates.shift();
    before = now;
    const ends = Math.round((now.certificate_expires_unix_seconds - now.at_unix_millis / 1000) / 86400);
    spots.tiles.replaceChildren(tiles([
      ["Requests a second", rate.toFixed(1)], ["Requests", count(now.requests)], ["In flight", count(now.requests_in_flight)],
      ["Tunnels", count(now.tunnels_open)], ["Answered 4xx", count(now.status_classes[3])], ["Answered 5xx", count(now.status_classes[4])],
      ["Keys", count(now.keys)], ["Tenants", count(now.tenants)],
      ["Store", now.counters_failing || now.changes_not_durable ? "cannot be written" : "good"], ["Configuration", now.last_reload_successful ? "good" : "last reload refused"],
      ["Certificate ends in", `${ends} days`], ["State", now.state]]));
    spots.rate.replaceChildren(chart(`Requests a second, now ${rate.toFixed(1)}`, rates));
    const refusals = Object.entries(now.refusals).sort((one, other) => other[1] - one[1]);
    spots.refusals.replaceChildren(table("Refusals and failures by reason", [["Reason"], ["Count", "number"]], refusals.map(([reason, times]) => [reason, count(times)])));
    const bounds = now.latency_bounds_seconds;
    const names = now.latency.map((_, at) => (at < bounds.length ? `up to ${bounds[at] * 1000} ms` : "longer"));
    spots.latency.replaceChildren(chart(`Requests by time taken: ${now.latency.map((times, at) => `${times} ${names[at]}`).filter((text) => !text.startsWith("0 ")).join(", ") || "none"}`, now.latency.map((times, at) => [names[at], times])));
  };
  draw(await api("GET", "/v1/overview"));
  const stand = async () => {
    const { upstreams } = await api("GET", "/v1/upstreams");
    const rows = upstreams.flatMap((one) => (one.servers.length ? one.servers : [null]).map((server) => [
      one.name, server ? `${one.scheme}://${server.server}` : "–", server ? state(server.state) : "–", server?.retry_in_seconds ? `tried in ${server.retry_in_seconds} s` : "",
      count(server?.in_flight), count(server?.ejections), count(one.queued), count(one.routes)]));
    spots.upstreams.replaceChildren(table("Upstreams", [["Name"], ["Server", "wide"], ["State"], ["Tried again"], ["In flight", "number"], ["Ejections", "number"], ["Queued", "number"], ["Routes", "number"]], rows));
  };
  await stand();
  live = setInterval(() => attempt(async () => { draw(await api("GET", "/v1/overview")); await stand(); }), LIVE_MILLIS);
  return [spots.tiles, make("h2", null, "Traffic"), spots.rate, make("h2", null, "Latency"), spots.latency, make("h2", null, "Refusals"), spots.refusals,
    make("h2", null, "Upstreams"), spots.upstreams];
}

async function keys() {
  const [listed, usage] = await Promise.all([api("GET", "/v1/keys?limit=1000"), api("GET", "/v1/usage")]);
  const used = new Map(usage.keys.map((key) => [key.key_id, key]));
  const rows = listed.keys.map((key) => [
    make("a", { href: `#/key/${key.id}` }, key.name), key.type, key.key || "–", key.tenant, time(key.created_at), time(key.last_used_at), state(key.status),
    count(used.get(key.id)?.requests), percent(used.get(key.id)?.success_rate_percent)]);
  return [writes() ? make("div", { class: "row" }, button("Create a key", create_key, "main")) : null,
    table(listed.next ? "The first 1,000 keys" : "Keys", [["Name", "wide"], ["Type"], ["Key"], ["Tenant"], ["Created"], ["Last used"], ["Status"], ["Requests in 24 h", "number"], ["Success", "number"]], rows, "no keys yet")];
}

function field(label, input) {
  input.id = input.id || `field-${label.toLowerCase().replace(/[^a-z]+/g, "-")}`;
  return make("p", null, make("label", { for: input.id }, label), input);
}

async function create_key() {
  const { tenants } = await api("GET", "/v1/tenants");
  const name = make("input", { name: "name", required: true, maxlength: "128", autocomplete: "off" });
  const tenant = make("select", { name: "tenant" }, tenants.map((one) => make("option", { value: one.id }, one.id)));
  const type = make("select", { name: "type" }, make("option", { value: "secret" }, "secret"), make("option", { value: "public" }, "public"));
  const ends = make("select", { name: "expires" }, [["7776000", "in 90 days"], ["2592000", "in 30 days"], ["31536000", "in a year"], ["", "never"]].map(([value, text]) => make("option", { value }, text)));
  const scopes = make("input", { name: "scopes", autocomplete: "off" });
  const form = make("form", { on: { submit: (event) => {
    event.preventDefault();
    attempt(async () => {
      const asked = { name: name.value, tenant: tenant.value, type: type.value };
      if (ends.value) asked.expires_in_seconds = Number(ends.value);
      const words = scopes.value.split(/\s+/).filter(Boolean);
      if (words.length) asked.scopes = words;
      else asked.inherit = true;
      show_secret("The new key", await api("POST", "/v1/keys", asked));
    });
  } } }, field("Name", name), field("Tenant", tenant), field("Type", type), field("Ends", ends), field("Scopes, separated by spaces; none is all of the tenant's", scopes),
  make("div", { class: "row" }, button("Cancel", () => $("dialog").close()), make("button", { type: "submit", class: "main" }, "Create")));
  dialog("Create a key", form);
}

async function key(id) {
  const at = `/v1/keys/${encodeURIComponent(id)}`;
  const [one, usage] = await Promise.all([api("GET", at), api("GET", `${at}/usage?since_seconds=604800`)]);
  const act = (verb, said) => () => attempt(async () => { await api("POST", `${at}/${verb}`); say(said); route(); });
  const acts = [];
  if (writes() && one.status !== "revoked" && one.status !== "deleted") {
    acts.push(one.status === "inactive" ? button("Activate", act("activate", "The key works again.")) : button("Deactivate", act("deactivate", "The key is switched off.")));
    acts.push(button("Regenerate", () => confirm_then("Regenerate this key?", `The present text of ${one.name} ends at once; the new one is shown once.`, "Regenerate",
      async () => show_secret("The new text", await api("POST", `${at}/regenerate`, {})))));
    acts.push(button("Revoke", () => confirm_then("Revoke this key?", `${one.name} ends for good, with the requests that it has in flight.`, "Revoke for good",
      async () => { await api("POST", `${at}/revoke`); say("The key is revoked."); route(); }), "final"));
  }
  const hours = new Map(usage.hours.map((hour) => [Date.parse(hour.hour), hour]));
  const last = Math.floor(Date.parse(usage.until) / 3600000) * 3600000;
  const bars = Array.from({ length: 168 }, (_, back) => {
    const begun = last - (167 - back) * 3600000;
    const hour = hours.get(begun);
    return [new Date(begun).toLocaleString(), hour?.requests || 0, (hour?.client_error || 0) + (hour?.server_error || 0)];
  });
  const total = usage.total;
  return [make("p", null, make("a", { href: "#/keys" }, "All keys"), " / ", make("b", null, one.name)), make("div", { class: "row" }, acts),
    tiles([["Status", state(one.status)], ["Type", one.type], ["Tenant", one.tenant], ["Key", one.key || "–"], ["Environment", one.environment], ["Created", time(one.created_at)],
      ["Ends", time(one.expires_at)], ["Last used", time(one.last_used_at)], ["Scopes", one.scopes ? one.scopes.join(" ") : "all of the tenant's"], ["Id", one.id], ["Note", one.note || "–"]]),
    make("h2", null, "Windows now"), table("Windows", [["Whose"], ["Window"], ["Limit"], ["Used", "number"], ["Left", "number"], ["Resets"]],
      usage.windows.map((window) => [window.subject, window.window, window.limit, window.state ? count(window.state.used) : "–", window.state ? count(window.state.remaining) : "–", window.state ? time(window.state.reset_at) : "–"])),
    make("h2", null, "Seven days"), tiles([["Requests", count(total.requests)], ["Success", percent(total.success_rate_percent)], ["Errors", percent(total.error_rate_percent)], ["Refused", count(total.refused)], ["Bytes in", count(total.received_bytes)], ["Bytes out", count(total.sent_bytes)]]),
    chart(`Requests by the hour within seven days: ${count(total.requests)}, of which ${count(total.client_error + total.server_error)} failed`, bars)];
}

async function tenants() {
  const { tenants } = await api("GET", "/v1/tenants");
  const parts = [];
  const verb = (one) => {
    if (me.role !== "full" || one.declared_in !== "store") return "";
    const path = `/v1/tenants/${encodeURIComponent(one.id)}`;
    return one.status === "suspended"
      ? button("Resume", () => attempt(async () => { await api("POST", `${path}/resume`); route(); }))
      : button("Suspend", () => confirm_then("Suspend this tenant?", `All keys of ${one.name} get 403 until it is resumed.`, "Suspend", async () => { await api("POST", `${path}/suspend`); route(); }), "final");
  };
  parts.push(table("Tenants", [["Id"], ["Name", "wide"], ["Plan"], ["Status"], ["Declared in"], ["Change"]], tenants.map((one) => [one.id, one.name, one.plan, state(one.status), one.declared_in, verb(one)])));
  if (whole()) {
    const { plans } = await api("GET", "/v1/plans");
    parts.push(make("h2", null, "Plans"), table("Plans", [["Name"], ["Quota"], ["Burst"], ["Scopes", "wide"], ["API access"]],
      plans.map((plan) => [plan.name, plan.quota, plan.burst, plan.scopes.join(" "), plan.api_access ? "yes" : "no"])));
  }
  return parts;
}

async function alerts() {
  const { alerts } = await api("GET", "/v1/alerts");
  return [table("Alerts, the latest first", [["When"], ["About"], ["What", "wide"], ["Webhook"]], alerts.map((one) => [time(one.at), one.kind, one.text, one.delivery]), "nothing had to be told")];
}

async function audit() {
  const [{ lines }, verdict] = await Promise.all([api("GET", "/v1/audit"), api("GET", "/v1/audit/verify")]);
  const whole = verdict.whole ? make("p", { class: "good" }, `${count(verdict.lines)} lines since ${time(verdict.since)}, all as they were written.${verdict.pruned_at ? ` Those before line ${verdict.first_line} were let go, as the log itself says.` : ""}`) : make("p", { class: "bad" }, `The log is not whole: ${verdict.fault}`);
  return [whole, table("What administrators did, the latest first", [["Line", "number"], ["When"], ["Who"], ["From"], ["Act"], ["About", "wide"], ["Changed", "wide"]],
    lines.map((line) => [line.seq, time(line.at), line.who, line.from, line.act, line.subject, differences(line)]))];
}

function differences(line) {
  if (!line.before || !line.after) return "–";
  const text = (value) => (value !== null && typeof value === "object" ? JSON.stringify(value) : String(value ?? "–"));
  const changed = Object.keys(line.after).filter((name) => text(line.before[name]) !== text(line.after[name]));
  return changed.map((name) => `${name}: ${text(line.before[name])} → ${text(line.after[name])}`).join("; ") || "–";
}

// ── Who is here, and which page ──────────────────────────────────────────────────────────────────────────────────────────

const PAGES = { overview: ["Overview", overview, true], keys: ["Keys", keys], tenants: ["Tenants and plans", tenants], alerts: ["Alerts", alerts, true], audit: ["Audit", audit, true], key: ["Key", key, false, true] };

function log_in(said) {
  $("nav").hidden = true;
  $("who").replaceChildren();
  const token = make("input", { type: "password", name: "token", required: true, autocomplete: "off" });
  const form = make("form", { on: { submit: (event) => {
    event.preventDefault();
    attempt(async () => {
      await api("POST", "/v1/session", { token: token.value });
      localStorage.setItem("portcullis", "1");
      await enter();
    });
  } } }, field("Admin token", token), make("button", { type: "submit", class: "main" }, "Log in"),
  make("p", { class: "quiet" }, "portcullis admin-tokens create --name NAME --role full"));
  $("main").replaceChildren(make("h1", { tabindex: "-1" }, "Log in"), said ? make("p", null, said) : "", form);
  document.title = "Log in – Portcullis";
  token.focus();
}

function leave() {
  me = null;
  clearInterval(live);
  localStorage.removeItem("portcullis");
  $("dialog").close();
  log_in("The session has ended.");
}

async function enter() {
  me = await api("GET", "/v1/session");
  const shown = Object.entries(PAGES).filter(([, page]) => !page[3] && (whole() || !page[2]));
  $("nav").replaceChildren(...shown.map(([name, page]) => make("a", { href: `#/${name}` }, page[0])));
  $("nav").hidden = false;
  $("who").replaceChildren(`${me.name || me.who} (${me.tenant ? `tenant ${me.tenant}` : me.role}) `, button("Log out", () => attempt(async () => { await api("DELETE", "/v1/session"); leave(); })));
  await route();
}

let turn = 0;
async function route() {
  if (!me) return;
  clearInterval(live);
  const mine = ++turn;
  const [, name, argument] = location.hash.split("/");
  const page = PAGES[name] || PAGES[whole() ? "overview" : "keys"];
  for (const link of $("nav").children) {
    if (link.getAttribute("href") === `#/${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const heading = make("h1", { tabindex: "-1" }, page[0]);
  try {
    const parts = await page[1](argument && decodeURIComponent(argument));
    if (mine !== turn) return;
    $("main").replaceChildren(heading, ...parts.filter(Boolean));
  } catch (error) {
    if (mine !== turn || !me) return;
    $("main").replaceChildren(heading, make("p", { class: "bad" }, error.message));
  }
  document.title = `${page[0]} – Portcullis`;
  heading.focus();
}

addEventListener("hashchange", route);
if (localStorage.getItem("portcullis")) {
  enter().catch(() => log_in());
} else {
  log_in();
}
