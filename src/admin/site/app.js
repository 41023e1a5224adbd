// The dashboard: one page over the API under /v1/. Every text becomes a text node; nothing is ever read as HTML.

const $ = (id) => document.getElementById(id);
const LIVE_MILLIS = 2000;
const PAGE_KEYS = 100;
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
  return child instanceof Node ? child : document.createTextNode(visible(child));
}

// Characters that turn the direction of what follows could make one name look like another: they are shown as what they are.
function visible(text) {
  return String(text).replace(/[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, (one) => `\\u${one.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

// On a phone each row is a card, with the columns' names in its cells; the roles keep it a table for who hears it.
function table(caption, columns, rows, empty) {
  const head = columns.map(([title, kind]) => make("th", { scope: "col", class: kind, role: "columnheader" }, title));
  const cell = (content, at) => make("td", { class: columns[at][1], role: "cell", "data-label": columns[at][0] }, content);
  const body = rows.map((row) => make("tr", { role: "row" }, row.map(cell)));
  if (!rows.length) body.push(make("tr", { role: "row" }, make("td", { colspan: columns.length, class: "quiet", role: "cell" }, empty || "none")));
  return make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    make("table", { role: "table", "aria-label": caption }, make("thead", { role: "rowgroup" }, make("tr", { role: "row" }, head)), make("tbody", { role: "rowgroup" }, body)));
}

function tiles(pairs) {
  return make("dl", { class: "tiles" }, pairs.map(([name, value]) => make("div", null, make("dt", null, name), make("dd", null, value))));
}

// Bars of [label, height, part that failed], from one end to the other; what it shows stands in its label too.
function chart(label, bars, from, to) {
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
  const axis = make("div", { class: "axis quiet", "aria-hidden": "true" }, make("span", null, from), make("span", null, to));
  const highest = Math.max(0, ...bars.map((bar) => bar[1]));
  return make("figure", null, make("div", { class: "most quiet", "aria-hidden": "true" }, `highest ${count(highest)}`), svg, axis, make("figcaption", { class: "quiet" }, label));
}

// In this browser's time, to the minute; the whole of it when pointed at.
const minute = (at) => new Date(at).toLocaleString("sv").slice(0, 16);
const time = (text) => (text ? make("time", { datetime: text, title: new Date(text).toLocaleString() }, minute(text)) : "never");
const count = (number) => Number(number || 0).toLocaleString();
const percent = (number) => (number === null || number === undefined ? "–" : `${number} %`);
const button = (text, act, kind) => make("button", { type: "button", class: kind, on: { click: act } }, text);
const state = (word) => make("span", { class: word === "active" || word === "up" ? "good" : "bad" }, word);
const writes = () => me.role !== "read-only";
const whole = () => me.role !== "tenant";

// Behind an open dialog nothing is read: what there is to say is said in it.
function say(text, kind) {
  if ($("dialog").open) {
    $("dialog-said").className = kind || "";
    $("dialog-said").textContent = text;
    return;
  }
  $("said").textContent = text;
  clearTimeout(say.later);
  say.later = setTimeout(() => { $("said").textContent = ""; }, 6000);
}

// ── The API ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

async function api(method, path, body) {
  const headers = { "X-Portcullis-Page": "1" };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let answer, said;
  try {
    answer = await fetch(path, { method, headers, credentials: "same-origin", body: body === undefined ? undefined : JSON.stringify(body) });
    said = answer.status === 204 ? null : await answer.json();
  } catch {
    throw new Error("The gateway does not answer.");
  }
  if (answer.status === 401 && me) {
    leave();
    throw new Error("The session has ended.");
  }
  if (!answer.ok) throw Object.assign(new Error(said.detail || said.title), { status: answer.status });
  return said;
}

// ── Dialogs ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

function dialog(title, content, closed) {
  const box = $("dialog");
  box.replaceChildren(make("h2", { id: "dialog-title" }, title), ...content, make("p", { id: "dialog-said", role: "status" }));
  // However it is closed, what it showed is gone.
  box.onclose = () => {
    box.replaceChildren();
    closed?.();
  };
  if (!box.open) box.showModal();
}

function confirm_then(title, text, label, act) {
  dialog(title, [make("p", null, text), make("div", { class: "row" },
    button("Cancel", () => $("dialog").close()),
    button(label, () => attempt(async () => {
      const said = await act();
      // A new text takes the dialog over.
      if ($("secret")) return;
      $("dialog").close();
      route();
      say(said);
    }), "final"))]);
}

async function attempt(act) {
  try {
    await act();
  } catch (error) {
    say(error.message, "bad");
  }
}

// The one time that a text is shown.
function show_secret(title, key) {
  const secret = make("code", { class: "secret", id: "secret", tabindex: "0" }, key.text);
  dialog(title, [make("p", null, "This is the only time that it is shown. It is kept nowhere."), secret,
    ...(key.notes || []).map((note) => make("p", { class: "quiet" }, note)),
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
      button("Done", () => $("dialog").close()))], route);
}

// ── Pages: each gives its parts, and what brings them up to date while it is looked at ────────────────────────────────────────────────────────────────────────────────────────────────────────────────

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
      ["Certificate ends in", `${count(ends)} days`], ["State", now.state]]));
    spots.rate.replaceChildren(chart(`Requests a second, now ${rate.toFixed(1)}`, rates, "2 minutes ago", "now"));
    const refusals = Object.entries(now.refusals).sort((one, other) => other[1] - one[1]);
    spots.refusals.replaceChildren(table("Refusals and failures by reason", [["Reason"], ["Count", "number"]], refusals.map(([reason, times]) => [reason, count(times)])));
    const bounds = now.latency_bounds_seconds;
    const names = now.latency.map((_, at) => (at < bounds.length ? `up to ${bounds[at] * 1000} ms` : "longer"));
    spots.latency.replaceChildren(chart(`Requests by time taken: ${now.latency.map((times, at) => `${times} ${names[at]}`).filter((text) => !text.startsWith("0 ")).join(", ") || "none"}`, now.latency.map((times, at) => [names[at], times]), names[0], names[names.length - 1]));
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
  const tick = async () => { draw(await api("GET", "/v1/overview")); await stand(); };
  return { tick, parts: [spots.tiles, make("h2", null, "Traffic"), spots.rate, make("h2", null, "Latency"), spots.latency, make("h2", null, "Refusals"), spots.refusals,
    make("h2", null, "Upstreams"), spots.upstreams] };
}

async function keys(after) {
  const from = after ? `&after=${encodeURIComponent(after)}` : "";
  const listed = await api("GET", `/v1/keys?limit=${PAGE_KEYS}${from}`);
  const ids = listed.keys.map((key) => key.id).join(",");
  const usage = ids ? await api("GET", `/v1/usage?keys=${ids}&limit=${PAGE_KEYS}`) : { keys: [] };
  const used = new Map(usage.keys.map((key) => [key.key_id, key]));
  const rows = listed.keys.map((key) => [
    make("a", { href: `#/key/${key.id}` }, key.name), key.type, key.key || "–", key.tenant, time(key.created_at), time(key.last_used_at), state(key.status),
    count(used.get(key.id)?.requests), percent(used.get(key.id)?.success_rate_percent)]);
  const others = make("p", { class: "row" }, after ? make("a", { href: "#/keys" }, "First page") : null, listed.next ? make("a", { href: `#/keys/${listed.next}` }, "Next page") : null);
  return { parts: [writes() ? make("div", { class: "row" }, button("Create a key", create_key, "main")) : null,
    table("Keys", [["Name", "wide"], ["Type"], ["Key"], ["Tenant"], ["Created"], ["Last used"], ["Status"], ["In 24 h", "number"], ["Success", "number"]], rows, "no keys yet"), after || listed.next ? others : null] };
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
  dialog("Create a key", [form]);
}

async function key(id) {
  const at = `/v1/keys/${encodeURIComponent(id)}`;
  const asked = () => api("GET", `${at}/usage?since_seconds=604800`);
  const [one, usage] = await Promise.all([api("GET", at), asked()]);
  const act = (verb, said) => () => attempt(async () => { await api("POST", `${at}/${verb}`); say(said); route(); });
  const acts = [];
  if (writes() && one.status !== "revoked" && one.status !== "deleted") {
    acts.push(one.status === "inactive" ? button("Activate", act("activate", "The key works again.")) : button("Deactivate", act("deactivate", "The key is switched off.")));
    acts.push(button("Regenerate", () => confirm_then("Regenerate this key?", `The present text of ${one.name} ends at once; the new one is shown once.`, "Regenerate",
      async () => show_secret("The new text", await api("POST", `${at}/regenerate`, {})))));
    acts.push(button("Revoke", () => confirm_then("Revoke this key?", `${one.name} ends for good, with the requests that it has in flight.`, "Revoke for good",
      async () => { await api("POST", `${at}/revoke`); return "The key is revoked."; }), "final"));
  }
  const spots = { about: make("div"), windows: make("div"), history: make("div") };
  const draw = (usage) => {
    spots.about.replaceChildren(about(one, usage));
    spots.windows.replaceChildren(windows_now(usage));
    spots.history.replaceChildren(...history(usage));
  };
  draw(usage);
  const tick = async () => draw(await asked());
  return { tick, parts: [make("p", null, make("a", { href: "#/keys" }, "All keys"), " / ", make("b", null, one.name)), make("div", { class: "row" }, acts), spots.about,
    make("h2", null, "Windows now"), spots.windows, make("h2", null, "Seven days"), spots.history] };
}

function about(one, usage) {
  return tiles([["Status", state(one.status)], ["Type", one.type], ["Tenant", one.tenant], ["Key", one.key || "–"], ["Environment", one.environment], ["Created", time(one.created_at)],
    ["Ends", time(one.expires_at)], ["Last used", time(usage.total.last_used_at || one.last_used_at)], ["Scopes", one.scopes ? one.scopes.join(" ") : "all of the tenant's"], ["Id", one.id], ["Note", one.note || "–"]]);
}

function windows_now(usage) {
  const figure = (window, name) => (window.state ? count(window.state[name]) : "–");
  return table("Windows", [["Whose"], ["Window"], ["Limit"], ["Used", "number"], ["Left", "number"], ["Resets"]],
    usage.windows.map((window) => [window.subject, window.window, window.limit, figure(window, "used"), figure(window, "remaining"), window.state ? time(window.state.reset_at) : "–"]), "none: the key has ended");
}

function history(usage) {
  const hours = new Map(usage.hours.map((hour) => [Date.parse(hour.hour), hour]));
  const last = Math.floor(Date.parse(usage.until) / 3600000) * 3600000;
  const bars = Array.from({ length: 168 }, (_, back) => {
    const begun = last - (167 - back) * 3600000;
    const hour = hours.get(begun);
    return [minute(begun), hour?.requests || 0, (hour?.client_error || 0) + (hour?.server_error || 0)];
  });
  const total = usage.total;
  const late = (usage.nodes || []).filter((node) => node.may_lack).map((node) => `${node.name || "A node"} told last at ${time(node.told_at)}.`);
  const missing = usage.others_missing ? [`Of this node alone: ${usage.others_missing}.`] : late;
  return [...missing.map((text) => make("p", { class: "quiet" }, text)), tiles([["Requests", count(total.requests)], ["Success", percent(total.success_rate_percent)], ["Errors", percent(total.error_rate_percent)], ["Refused", count(total.refused)], ["Bytes in", count(total.received_bytes)], ["Bytes out", count(total.sent_bytes)]]),
    chart(`Requests by the hour within seven days: ${count(total.requests)}, of which ${count(total.client_error + total.server_error)} failed`, bars, bars[0][0], "now")];
}

async function tenants() {
  const { tenants } = await api("GET", "/v1/tenants");
  const parts = [];
  const verb = (one) => {
    if (me.role !== "full" || one.declared_in !== "store") return "";
    const path = `/v1/tenants/${encodeURIComponent(one.id)}`;
    return one.status === "suspended"
      ? button("Resume", () => attempt(async () => { await api("POST", `${path}/resume`); route(); }))
      : button("Suspend", () => confirm_then("Suspend this tenant?", `All keys of ${one.name} get 403 until it is resumed.`, "Suspend", async () => { await api("POST", `${path}/suspend`); return "The tenant is suspended."; }), "final");
  };
  parts.push(table("Tenants", [["Id"], ["Name", "wide"], ["Plan"], ["Status"], ["Declared in"], ["Change"]], tenants.map((one) => [one.id, one.name, one.plan, state(one.status), one.declared_in, verb(one)])));
  if (whole()) {
    const { plans } = await api("GET", "/v1/plans");
    parts.push(make("h2", null, "Plans"), table("Plans", [["Name"], ["Quota"], ["Burst"], ["Scopes", "wide"], ["API access"]],
      plans.map((plan) => [plan.name, plan.quota, plan.burst, plan.scopes.join(" "), plan.api_access ? "yes" : "no"])));
  }
  return { parts };
}

async function alerts() {
  const { alerts } = await api("GET", "/v1/alerts");
  return { parts: [table("Alerts, the latest first", [["When"], ["About"], ["What", "wide"], ["Webhook"]], alerts.map((one) => [time(one.at), one.kind, one.text, one.delivery]), "nothing had to be told")] };
}

async function audit() {
  const [{ lines }, verdict] = await Promise.all([api("GET", "/v1/audit"), api("GET", "/v1/audit/verify")]);
  const whole = verdict.whole ? make("p", { class: "good" }, `${count(verdict.lines)} lines since `, time(verdict.since), `, all as they were written.${verdict.pruned_at ? ` Those before line ${verdict.first_line} were let go, as the log itself says.` : ""}`) : make("p", { class: "bad" }, `The log is not whole: ${verdict.fault}`);
  return { parts: [whole, table("What administrators did, the latest first", [["Line", "number"], ["When"], ["Who"], ["From"], ["Act"], ["About", "wide"], ["Changed", "wide"]],
    lines.map((line) => [line.seq, time(line.at), line.who, line.from, line.act, line.subject, differences(line)]), "nothing yet")] };
}

// What is new as a whole is told by a few of its members.
const NEW = ["name", "tenant", "role", "plan", "count", "first", "through"];

function differences(line) {
  const text = (value) => (value !== null && typeof value === "object" ? JSON.stringify(value) : String(value ?? "–"));
  if (!line.after) return "–";
  if (!line.before) return NEW.filter((name) => line.after[name] !== undefined && line.after[name] !== null).map((name) => `${name}: ${text(line.after[name])}`).join("; ") || "–";
  const changed = Object.keys(line.after).filter((name) => name !== "status_label" && text(line.before[name]) !== text(line.after[name]));
  return changed.map((name) => `${name}: ${text(line.before[name])} → ${text(line.after[name])}`).join("; ") || "–";
}

// ── Who is here, and which page ──────────────────────────────────────────────────────────────────────────────────────────

const PAGES = { overview: ["Overview", overview, true], keys: ["Keys", keys], tenants: ["Tenants and plans", tenants], alerts: ["Alerts", alerts, true], audit: ["Audit", audit, true], key: ["Key", key, false, true] };

function log_in(said) {
  $("nav").hidden = true;
  $("who").replaceChildren();
  const token = make("input", { type: "password", name: "token", required: true, autocomplete: "off" });
  const refused = make("p", { class: "bad", role: "alert" });
  const form = make("form", { on: { submit: async (event) => {
    event.preventDefault();
    refused.replaceChildren();
    try {
      await api("POST", "/v1/session", { token: token.value });
      localStorage.setItem("portcullis", "1");
      await enter();
    } catch (error) {
      refused.replaceChildren(error.status === 401 ? "This token opens nothing: it is mistyped, revoked or expired." : error.message);
      token.focus();
    }
  } } }, field("Admin token", token), refused, make("button", { type: "submit", class: "main" }, "Log in"),
  make("p", { class: "quiet hint" }, "A token is made where the gateway runs: ", make("code", null, "portcullis admin-tokens create --name NAME --role full")));
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
    const { parts, tick } = await page[1](argument && decodeURIComponent(argument));
    if (mine !== turn) return;
    $("main").replaceChildren(heading, ...parts.filter(Boolean));
    if (tick) live = setInterval(() => attempt(tick), LIVE_MILLIS);
  } catch (error) {
    if (mine !== turn || !me) return;
    $("main").replaceChildren(heading, make("p", { class: "bad", role: "alert" }, error.message), button("Try again", route));
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
