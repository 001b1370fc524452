// The expert's ten minutes: one item after another, each settled by a key or two.
//
// The browser runs ahead of the server: a key shows the next item, whose pictures are there already, and the
// decision is sent behind it, in order. What the server refuses comes back with the reason.

const AHEAD = 5;              // items whose pictures are fetched before they are shown
const REFILL_BELOW = 9;       // items left when more are asked for
const ALL = 12;               // items in one answer
const TEN_MINUTES_S = 600;
const NUDGES = { "[": -1, "-": -1, ArrowLeft: -1, "]": 1, "+": 1, ArrowRight: 1 };
const RETRY_MS = [500, 1000, 2000, 4000];
const TICK_MS = 1000;
const HALO = "rgba(16,16,24,0.75)";

function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick") element.addEventListener("click", value);
    else if (value != null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

function s(tag, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const clock = (seconds) => `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;
const about = (seconds) => (seconds < 55 ? `${Math.max(1, Math.round(seconds))} s` : `${Math.round(seconds / 60)} min`);

class Refused extends Error {}

class Minutes {
  constructor(root, data) {
    this.root = root;
    this.pane = data.pane_px;
    this.client = `m-${crypto.randomUUID?.() ?? Math.random().toString(36).slice(2)}`;
    this.presses = 0;
    this.items = [];          // ready to be shown, the first one is on the screen
    this.settled = new Set(); // names that this page has answered or put aside
    this.skipped = 0;
    this.done = 0;
    this.waiting = [];        // [name, seconds] of everything the server has
    this.sending = Promise.resolve();
    this.unsent = 0;
    this.spent = 0;           // seconds on the page with an item in front
    this.onItem = 0;
    this.trouble = "";
    this.then = null;         // keys of the second press
    this.state = "loading";
    this.listeners = new AbortController();
    const on = (target, kind, act, options = {}) =>
      target.addEventListener(kind, act, { ...options, signal: this.listeners.signal });
    on(window, "keydown", (event) => this._key(event), { capture: true });
    // Who came by the link above would go there again by Enter.
    if (document.activeElement instanceof HTMLAnchorElement) document.activeElement.blur();
    on(window, "beforeunload", (event) => { if (this.unsent) event.preventDefault(); });
    this.last = performance.now();
    this.timer = setInterval(() => this._tick(), TICK_MS);
    this._draw();
    this._fill();
  }

  close() {
    this.listeners.abort();
    clearInterval(this.timer);
    this.closed = true;
    this.root.replaceChildren();
  }

  // ------------------------------------------------------------ the clock

  _time() {
    const now = performance.now();
    const passed = (now - this.last) / 1000;
    this.last = now;
    // A tick that comes late was a page asleep or hidden, not a person looking.
    if (document.hidden || this.state !== "item" || passed > 5) return;
    this.spent += passed;
    this.onItem += passed;
  }

  _tick() {
    this._time();
    const face = this.root.querySelector(".m-clock");
    if (face) face.textContent = this._clockText();
  }

  _clockText() {
    return this.spent < TEN_MINUTES_S ? `${clock(this.spent)} of 10:00` : `${clock(this.spent)}: ten minutes are over`;
  }

  // ------------------------------------------------------------ talking to the server

  async _post(path, body) {
    for (let attempt = 0; ; attempt++) {
      let answer;
      try {
        answer = await fetch(`/api/minutes/${path}`, {
          method: "POST", credentials: "same-origin",
          headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
        });
      } catch {
        answer = null;
      }
      if (answer?.ok) return answer.json();
      if (answer && answer.status < 500) throw new Refused(await answer.text());
      if (this.closed) throw new Refused("The page was left.");
      this.trouble = "No connection to the server. What you decide is kept here and sent when it is back.";
      this._draw();
      await pause(RETRY_MS[Math.min(attempt, RETRY_MS.length - 1)]);
      this.trouble = "";
    }
  }

  async _fill() {
    if (this.filling) return;
    this.filling = true;
    let told = null;
    try {
      // The first item is not to wait for the pictures of the others.
      const count = this.items.length ? ALL : 2;
      told = await this._post("next", { leave_out: [...this.settled], count });
      const known = new Set(this.items.map((item) => item.name));
      this.waiting = told.waiting;
      for (const item of told.items) {
        if (!known.has(item.name) && !this.settled.has(item.name)) this.items.push(item);
      }
      this.trouble = "";
    } catch (error) {
      this.trouble = error.message;
    }
    this.filling = false;
    this._show();
    if (told?.items.length && this.items.length && this._wantsMore()) this._fill();
  }

  _wantsMore() {
    return this.items.length < REFILL_BELOW && this._left().length > this.items.length;
  }

  // Decisions go one after another, in the order of the keys.
  _send(path, body, onDone, onRefused) {
    this.unsent++;
    this.sending = this.sending.then(async () => {
      try {
        onDone?.(await this._post(path, body));
      } catch (error) {
        onRefused(error);
      }
      this.unsent--;
      this._draw();
    });
  }

  // ------------------------------------------------------------ items

  get item() { return this.items[0]; }

  _show() {
    const item = this.item;
    this.state = item ? "item" : this.filling || this.unsent ? "loading" : "empty";
    this.then = null;
    if (item && this.shownName !== item.name) {
      this.shownName = item.name;
      this.onItem = 0;
      this.last = performance.now();
      this.value = item.adjust?.value ?? null;
      this.choice = 0;
      this.hidden = false;
    }
    for (const one of this.items.slice(1, 1 + AHEAD)) {
      for (const pane of one.panes) for (const url of pane.layers) fetchAhead(url);
      if (one.adjust) fetchAhead(one.adjust.layer + one.adjust.value);
    }
    this._draw();
  }

  _left() {
    return this.waiting.filter(([name]) => !this.settled.has(name));
  }

  _decide(press) {
    const item = this.item;
    if (!item) return;
    this._time();
    const detail = { ...press.detail };
    if (item.adjust) detail.value = this.value;
    if (item.choices && press.decision === "accept") detail[item.choices.name] = item.choices.options[this.choice];
    const body = {
      client_key: `${this.client}:${++this.presses}`, kind: item.kind, key: item.key,
      decision: press.decision, detail, seconds: this.onItem,
    };
    const opens = press.decision === "open";
    if (!opens) {
      this.items.shift();
      this.settled.add(item.name);
      if (press.decision === "skip") this.skipped++; else this.done++;
    }
    this._send("settle", body, (told) => {
      if (told.open) window.location.assign(told.open);
    }, (error) => {
      this.trouble = `${item.heading}, ${item.title}: ${error.message}`;
      if (!opens) {
        if (press.decision === "skip") this.skipped--; else this.done--;
        // Settled by somebody else meanwhile, or not settled at all: the server knows which.
        this.settled.delete(item.name);
        this._fill();
      }
    });
    // What was decided may bring up new items, a review to finish say: asked for once it is settled.
    if (this.items.length === 0) this._fillSoon();
    else if (this._wantsMore()) this._fill();
    this._show();
  }

  // Behind what is being sent.
  _fillSoon() {
    this.sending = this.sending.then(() => this._fill());
  }

  _undo() {
    this._time();
    const body = { client_key: `${this.client}:${++this.presses}`, seconds: this.onItem };
    this._send("undo", body, (told) => {
      this.trouble = told.undone ? "" : "There is nothing to take back.";
      if (!told.undone) return;
      if (this.settled.delete(told.undone)) {
        if (told.decision === "skip") this.skipped = Math.max(0, this.skipped - 1);
        else this.done = Math.max(0, this.done - 1);
      }
      const back = told.items[0];
      if (back) {
        this.items = [back, ...this.items.filter((item) => item.name !== back.name)];
        if (!this.waiting.some(([name]) => name === back.name)) this.waiting.push([back.name, back.seconds]);
      }
      this.shownName = null;
      this._show();
      this._fillSoon();
    }, (error) => { this.trouble = error.message; });
  }

  _again() {
    this.settled.clear();
    this.skipped = 0;
    this.state = "loading";
    this._draw();
    this._fillSoon();
  }

  _nudge(steps) {
    const { step, top } = this.item.adjust;
    this.value = Math.min(top, Math.max(0, Math.round((this.value + steps * step) * 10) / 10));
    this._draw();
  }

  // ------------------------------------------------------------ keys

  _key(event) {
    // Some keyboards write [ and ] with AltGr, which comes as Ctrl and Alt.
    const written = event.getModifierState("AltGraph");
    if ((!written && (event.ctrlKey || event.altKey)) || event.metaKey || event.isComposing) return;
    const target = event.composedPath()[0];
    if (target instanceof HTMLElement && target.matches("input, textarea, select, [contenteditable]")) return;
    const key = event.key.length === 1 ? event.key.toUpperCase() : event.key;
    // Enter on a button somebody has gone to by Tab presses that button.
    if (key === "Enter" && target instanceof HTMLElement && target.matches("button, a")) return;
    if (!this._take(key, event.repeat)) return;
    event.preventDefault();
    event.stopImmediatePropagation();
  }

  _take(key, repeated) {
    if (this.state !== "item") {
      // Also while the next items are on their way: what was just pressed can be taken back.
      const waiting = this.state === "loading" && this.presses > 0;
      if (key === "U" && (this.state === "empty" || waiting) && !repeated) { this._undo(); return true; }
      return false;
    }
    const item = this.item;
    if (item.adjust && NUDGES[key]) { this._nudge(NUDGES[key]); return true; }
    if (repeated) return ["S", "U", ...item.keys.map((one) => one.key)].includes(key);
    if (this.then) {
      const second = this.then.find((one) => one.key === key);
      this.then = null;
      if (second) { this._decide(second); return true; }
      this._draw();
      return key === "Escape";
    }
    const press = item.keys.find((one) => one.key === key);
    if (press?.then) { this.then = press.then; this._draw(); return true; }
    if (press) { this._decide(press); return true; }
    const option = item.choices ? Number(key) - 1 : NaN;
    if (item.choices?.options[option]) { this.choice = option; this._draw(); return true; }
    if (key === "S") { this._decide({ decision: "skip", detail: {} }); return true; }
    if (key === "U") { this._undo(); return true; }
    if (key === "H" && item.hides) { this.hidden = !this.hidden; this._draw(); return true; }
    return false;
  }

  // ------------------------------------------------------------ what is on the screen

  _draw() {
    if (this.closed) return;
    const parts = [this._bar()];
    if (this.trouble) parts.push(h("div", { class: "m-trouble", role: "alert" }, this.trouble));
    if (this.state === "item") parts.push(h("div", { class: "m-main" }, this._panes(), this._side()));
    else if (this.state === "empty") parts.push(this._empty());
    else parts.push(h("div", { class: "m-card" }, "Looking for what waits ..."));
    this.root.replaceChildren(...parts);
  }

  _bar() {
    const item = this.state === "item" ? this.item : null;
    const left = this._left();
    const seconds = left.reduce((sum, [, each]) => sum + each, 0);
    return h("div", { class: "m-bar" },
      item && h("b", { class: "m-kind" }, item.heading),
      item && h("span", { class: "m-title" }, item.title),
      item && h("span", { class: "m-note" }, `${item.why} · about ${about(item.seconds)}`),
      h("span", { class: "m-stretch" }),
      left.length ? h("span", { class: "m-left" }, `${left.length} ${left.length === 1 ? "waits" : "wait"}, about ${about(seconds)}`) : null,
      h("span", { class: "m-done" }, `${this.done} settled`),
      h("span", { class: "m-saved" }, this.unsent ? "saving ..." : this.done ? "saved" : ""),
      h("span", { class: "m-clock" }, this._clockText()));
  }

  _panes() {
    const item = this.item;
    return h("div", { class: "m-panes" }, ...item.panes.map((pane) => {
      const layers = pane.layers.map((url) => h("img", { src: url, width: this.pane, height: this.pane, alt: "" }));
      if (item.adjust) {
        layers.push(h("img", { src: item.adjust.layer + this.value, width: this.pane, height: this.pane, alt: "" }));
      }
      const drawing = pane.rings && !this.hidden ? this._rings(pane.rings) : null;
      return h("figure", {}, h("figcaption", {}, pane.title),
        h("div", { class: "m-pane", style: `width:${this.pane}px;height:${this.pane}px` }, ...layers, drawing));
    }));
  }

  _rings(rings) {
    const svg = s("svg", { width: this.pane, height: this.pane, viewBox: `0 0 ${this.pane} ${this.pane}`, fill: "none" });
    for (const ring of rings) {
      const points = ring.points.map(([x, y]) => `${x},${y}`).join(" ");
      const dash = ring.dashed ? { "stroke-dasharray": "7 5" } : {};
      svg.append(s("polygon", { points, stroke: HALO, "stroke-width": 4.5 }));
      svg.append(s("polygon", { points, stroke: ring.colour, "stroke-width": ring.wide ? 3 : 2, ...dash }));
      if (ring.label) {
        const [x, y] = ring.at;
        const text = s("text", { x, y: Math.max(16, y), fill: ring.colour, stroke: HALO,
          "stroke-width": 4, "paint-order": "stroke", "font-size": 17, "font-weight": 700, "font-family": "sans-serif" });
        text.textContent = ring.label;
        svg.append(text);
      }
    }
    return svg;
  }

  _side() {
    const item = this.item;
    const lines = [h("p", { class: "m-question" }, item.question)];
    if (item.note) lines.push(h("p", { class: "m-note" }, item.note));
    if (item.adjust) {
      lines.push(h("div", { class: "m-adjust" },
        this._press("[", "lower", () => this._nudge(-1)), h("b", {}, String(this.value)),
        this._press("]", "higher", () => this._nudge(1))));
    }
    if (item.choices) {
      lines.push(h("div", { class: "m-keys" }, ...item.choices.options.map((text, place) =>
        this._press(String(place + 1), text, () => { this.choice = place; this._draw(); }, place === this.choice ? "chosen" : ""))));
    }
    const keys = this.then ?? item.keys;
    lines.push(h("div", { class: "m-keys" }, ...keys.map((one, place) => {
      const act = () => (one.then ? ((this.then = one.then), this._draw()) : this._decide(one));
      const label = one.label.replace("{value}", String(this.value));
      return this._press(one.key, label, act, place === 0 && !this.then ? "primary" : "", one.colour);
    })));
    if (this.then) lines.push(h("p", { class: "m-note" }, "Escape: back"));
    lines.push(h("div", { class: "m-keys m-always" },
      item.hides ? this._press("H", this.hidden ? "Show the lines" : "Hide the lines", () => { this.hidden = !this.hidden; this._draw(); }) : null,
      this._press("S", "Skip, it comes again", () => this._decide({ decision: "skip", detail: {} })),
      this._press("U", "Undo the last", () => this._undo())));
    lines.push(h("p", { class: "m-note" }, "Stop anywhere: what is settled is kept, what is open comes again."));
    return h("div", { class: "m-side" }, ...lines);
  }

  _press(key, label, act, look = "", colour = null) {
    const swatch = colour ? h("i", { style: `background:${colour}` }) : null;
    // The next key must not press the button that was clicked last.
    const click = (event) => { event.currentTarget.blur(); act(); };
    return h("button", { type: "button", class: look, onclick: click }, h("kbd", {}, key), swatch, h("span", {}, label));
  }

  _empty() {
    const skipped = this.skipped > 0;
    return h("div", { class: "m-card" },
      h("b", {}, skipped ? `Nothing else waits for you. ${this.skipped} skipped.` : "Nothing waits for you."),
      h("p", { class: "m-note" },
        "New items come as students hand in patches, slides are imported and registrations are estimated."),
      h("div", { class: "m-keys m-row" },
        skipped ? this._press("↻", "Look at the skipped ones", () => this._again(), "primary") : null,
        this.done || skipped ? this._press("U", "Undo the last", () => this._undo()) : null,
        h("a", { href: "/", target: "_self" }, "Home")));
  }
}

const fetched = new Map();

function fetchAhead(url) {
  if (fetched.has(url)) return;
  const picture = new Image();
  picture.src = url;
  fetched.set(url, picture);
  if (fetched.size > 64) fetched.delete(fetched.keys().next().value);
}

const mounted = new WeakMap();

export default function ({ data, parentElement }) {
  let page = mounted.get(parentElement);
  if (!page) {
    page = new Minutes(parentElement.querySelector(".minutes"), data);
    mounted.set(parentElement, page);
  }
  clearTimeout(page.leaving);
  return () => {
    page.leaving = setTimeout(() => {
      page.close();
      mounted.delete(parentElement);
    }, 1000);
  };
}
