// The annotation surface: the stained patch and its marker in one view, boxes and masks on both.
//
// The browser runs ahead of the server: what a person does is drawn at once, kept in IndexedDB, and sent in
// order until the server has acknowledged it. The truth is what the server tells; `shown` is that with the
// gestures still on their way applied to it. All positions are px of the patch unless a name says otherwise.

const HANDLE_PX = 3;          // on the screen: half the side of a handle
const SMALLEST_WITH_HANDLES_PX = 28;  // on the screen: side of a box
const MOVER_PX = 8;           // on the screen: radius of what moves a box
const MOVER_OFF_PX = 14;      // on the screen: how far it lies off the box
const CLICK_PX = 4;           // on the screen: a shorter drag is a click
const LARGEST_ZOOM = 16;      // times the view that shows the whole patch
const SHARP_FROM = 4;         // screen px per patch px above which pixels are shown as squares
const PRESENT_EVERY_MS = 5000;
const IDLE_MS = 60000;
const RETRY_MS = [500, 1000, 2000, 4000, 5000];
const MOST_GESTURES = 100;    // in one request
const MOST_BYTES = 1_000_000; // in one request
const MOST_KEPT_ALIVE = 50_000;  // bytes that a closing page may still send
const PICTURES_KEPT = 24;
const NO_CONSENT = 428;       // the consent text has changed: it has to be answered first
const CLOSED = [403, 404, NO_CONSENT];  // not this person's any more, or not open now
const HELD = { " ": "pan", q: "blink", h: "hide" };
const VERDICT_SIGNS = { right: "✓", wrong_class: "⇄", missed: "!", extra: "✕" };
const VERDICT_COLOURS = { right: "#7ec8ff", wrong_class: "#ffb000", missed: "#ffb000", extra: "#ffb000" };
const HALO = "rgba(16,16,24,0.8)";
const DIM_SUPPORT = 0.25;
const LAYER_RIM = 12;         // px of the patch beyond its border that tags may take
const LOUPE_REACH = 14;       // px of the patch on each side of the cursor
const STATE_MARKS = { proposed: "○", accepted: "✓", rejected: "✕" };
const MODES = ["side", "swipe", "overlay", "single"];

// ---------------------------------------------------------------- geometry

export function normalBox(a, b, width, height) {
  const clip = (value, most) => Math.min(Math.max(value, 0), most);
  const xs = [clip(a[0], width), clip(b[0], width)].sort((p, q) => p - q);
  const ys = [clip(a[1], height), clip(b[1], height)].sort((p, q) => p - q);
  return [xs[0], ys[0], xs[1], ys[1]];
}

export function boxOfPoints(points) {
  const xs = points.map((p) => p[0]), ys = points.map((p) => p[1]);
  return [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
}

export function boxOfRings(rings) {
  return rings.length ? boxOfPoints(rings.flat()) : null;
}

function middleOf(thing) {
  const box = thing && (boxOfRings(thing.rings) ?? thing.box);
  return box ? [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2] : null;
}

export function contains(rings, x, y) {
  let inside = false;
  for (const ring of rings) {
    for (let i = 0, j = ring.length - 1; i < ring.length; j = i++) {
      const [xi, yi] = ring[i], [xj, yj] = ring[j];
      if (yi > y !== yj > y && x < ((xj - xi) * (y - yi)) / (yj - yi) + xi) inside = !inside;
    }
  }
  return inside;
}

// Douglas-Peucker on a closed ring: few handles, none further than `tolerance` from the outline.
export function simplified(ring, tolerance) {
  if (ring.length < 5) return ring.slice();
  const keep = new Uint8Array(ring.length);
  let far = 0;
  for (let i = 1; i < ring.length; i++) {
    if (distance(ring[i], ring[0]) > distance(ring[far], ring[0])) far = i;
  }
  keep[0] = keep[far] = 1;
  const stack = [[0, far], [far, ring.length]];
  while (stack.length) {
    const [from, to] = stack.pop();
    const a = ring[from], b = ring[to % ring.length];
    let worst = tolerance, at = -1;
    for (let i = from + 1; i < to; i++) {
      const off = offLine(ring[i], a, b);
      if (off > worst) { worst = off; at = i; }
    }
    if (at >= 0) { keep[at] = 1; stack.push([from, at], [at, to]); }
  }
  return ring.filter((_, i) => keep[i]);
}

function distance(a, b) { return Math.hypot(a[0] - b[0], a[1] - b[1]); }

function offLine(p, a, b) {
  const dx = b[0] - a[0], dy = b[1] - a[1], length = dx * dx + dy * dy;
  const t = length ? Math.min(1, Math.max(0, ((p[0] - a[0]) * dx + (p[1] - a[1]) * dy) / length)) : 0;
  return distance(p, [a[0] + t * dx, a[1] + t * dy]);
}

// ---------------------------------------------------------------- gestures that are on their way

// What is on the screen: the server's objects with the gestures it has not settled yet.
export function applied(objects, gestures) {
  const shown = new Map(objects);
  const change = (id, part) => { if (shown.has(id)) shown.set(id, { ...shown.get(id), ...part }); };
  let number = Math.max(0, ...[...objects.values()].map((thing) => thing.number));
  for (const g of gestures) {
    if (g.kind === "box") {
      shown.set(g.object_id, { ...newObject(g.object_id, ++number, g.class_id), box: g.box, pending: true });
    } else if (g.kind === "outline" || g.kind === "paint") {
      const ring = g.kind === "outline" ? [g.points] : [];
      if (shown.has(g.object_id)) change(g.object_id, { pending: true, ...(ring.length ? { rings: ring } : {}) });
      else if (g.class_id != null) {
        shown.set(g.object_id, { ...newObject(g.object_id, ++number, g.class_id), rings: ring, pending: true });
      }
    } else if (g.kind === "move") change(g.object_id, { box: g.box, rings: [], state: "proposed", pending: true });
    else if (g.kind === "class") change(g.object_id, { class_id: g.class_id });
    else if (g.kind === "accept") for (const id of g.object_ids) change(id, { state: "accepted" });
    else if (g.kind === "reject") change(g.object_id, { state: "rejected" });
    else if (g.kind === "delete") shown.delete(g.object_id);
    else if (g.kind === "points") change(g.object_id, {
      pending: true, points: [...(shown.get(g.object_id)?.points ?? []), ...g.points],
    });
  }
  return shown;
}

function newObject(id, number, classId) {
  return { id, number, class_id: classId, state: "proposed", box: null, rings: [], points: [], doubts: [],
    origin: "sam", predicted_iou: null, support: null, empty: false };
}

// The gestures of this browser that no server has acknowledged, by patch and page load.
class Outbox {
  constructor(study) {
    const opened = new Promise((resolve) => {
      try {
        const asked = indexedDB.open(`allinsam ${study}`, 1);
        asked.onupgradeneeded = () => asked.result.createObjectStore("gestures", { keyPath: ["assignment", "client", "n"] });
        asked.onsuccess = () => resolve(asked.result);
        asked.onerror = () => resolve(null);
      } catch { resolve(null); }
    });
    this.ready = Promise.race([opened, pause(2000).then(() => null)]);  // a browser may never answer
  }

  async put(assignment, client, gesture) {
    const db = await this.ready;
    if (db) db.transaction("gestures", "readwrite").objectStore("gestures")
      .put({ assignment, client, n: gesture.n, gesture, kept: Date.now() });
  }

  async settle(assignment, client, upTo) {
    const db = await this.ready;
    if (!db) return;
    const range = IDBKeyRange.bound([assignment, client, 0], [assignment, client, upTo]);
    db.transaction("gestures", "readwrite").objectStore("gestures").delete(range);
  }

  async leftBehind(assignment, client) {
    const db = await this.ready;
    if (!db) return new Map();
    const range = IDBKeyRange.bound([assignment], [assignment, []]);
    const rows = await new Promise((resolve) => {
      const asked = db.transaction("gestures").objectStore("gestures").getAll(range);
      asked.onsuccess = () => resolve(asked.result);
      asked.onerror = () => resolve([]);
    });
    const byClient = new Map();
    rows.sort((a, b) => (a.kept ?? 0) - (b.kept ?? 0) || a.n - b.n);  // page loads one after another
    for (const row of rows) {
      if (row.client === client) continue;
      if (!byClient.has(row.client)) byClient.set(row.client, []);
      byClient.get(row.client).push(row.gesture);
    }
    return byClient;
  }
}

// ---------------------------------------------------------------- small parts

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

function h(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === false || value == null) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(element.style, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat()) if (child != null && child !== false) element.append(child);
  return element;
}

const sizeOf = (text) => new Blob([text]).size;  // bytes

// As many gestures as one request may hold, at least one.
function fitting(gestures, most) {
  const batch = [];
  let bytes = 0;
  for (const gesture of gestures.slice(0, most)) {
    bytes += sizeOf(JSON.stringify(gesture));
    if (batch.length && bytes > MOST_BYTES) break;
    batch.push(gesture);
  }
  return batch;
}

function uuid() {
  if (crypto.randomUUID) return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16));  // a page without TLS has no randomUUID
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

function pathOf(rings) {
  const path = new Path2D();
  for (const ring of rings) {
    ring.forEach(([x, y], i) => (i ? path.lineTo(x, y) : path.moveTo(x, y)));
    path.closePath();
  }
  return path;
}

// ---------------------------------------------------------------- the surface

class Surface {
  constructor(root, data) {
    this.root = root;
    root.surface = this;  // for a script that drives the page
    this.text = data.strings;
    this.examples = data.examples;
    this.tellPage = () => {};
    this.turn = data.turn;        // counts changes of patch: an older one that the page tells of is no wish
    this.client = `page-${uuid()}`;
    this.outbox = new Outbox(data.study);
    this.n = 0;
    this.waitingToSend = [];      // gestures of this page load, oldest first
    this.whenSent = [];           // who waits until there are none
    this.paths = new Map();       // object -> its Path2D, by object id and rings
    this.images = new Map();
    this.view = { x: 0, y: 0, zoom: 1 };
    this.options = { mode: "side", outline: 0.8, fill: false, bright: true, opacity: 0.5, swipe: 0.5, contrast: 1,
      tint: "grey", channel: "", smooth: true, ...this._remembered() };
    this.tool = "box";
    this.cursor = null;
    this.held = new Set();
    this.pointers = new Map();
    this.selected = null;
    this.brush = 5;
    this.backoff = 0;
    this.trouble = "";
    this.closed = false;
    this._build();
    this._listen();
    this.open(data.assignment_id);
  }

  // ---------------------------------------------------------- opening a patch

  async open(assignmentId) {
    this.assignmentId = assignmentId;
    this.desk = null;
    this.base = new Map();
    this.shown = new Map();
    this.selected = null;
    this.drag = null;
    this.draft = [];
    this.waiting = new Set();
    this.verdicts = this.cards = this.reminder = null;
    this.knows = null;
    this.showOpen = this.editing = this.redrawing = this.pressed = null;
    this.finished = this.asking = null;
    const opening = this.opening = {};
    this.paths.clear();
    this._say(this.text.opening);
    const desk = await this._retrying(() => this._fetch(`desk?client=${encodeURIComponent(this.client)}`, assignmentId));
    if (this.opening !== opening) return;
    if (!desk) {  // asked again by _tick
      this._say(this.trouble);
      // The page says why it is closed, and where to go.
      if (CLOSED.includes(this.refusal)) this.tellPage(assignmentId, this.turn);
      return;
    }
    this.trouble = "";
    this.desk = desk;
    this.size = [desk.assignment.width_px, desk.assignment.height_px];
    this.classId = desk.classes.some((c) => c.id === this.classId) ? this.classId : desk.classes[0].id;
    this.tool = desk.assignment.tool === "contour" ? "lasso" : "box";
    this.brightPaths = new Map(desk.classes.map((c) => [c.id, c.bright ? pathOf(c.bright) : null]));
    this._tell(desk);
    this._say("");
    this.fit();
    this._loadImages();
    if (!this._returnToPlace()) this._selectNext();
    this.tellPage(assignmentId, this.turn);
    await this._sendLeftBehind(assignmentId).catch(() => {});
    if (desk.refresh) await this._remind(desk.refresh);  // its time is not the patch's
    if (this.opening !== opening) return;
    this.emit("load");
    if (this.waiting.size) this._fetchMasks();
    if (desk.submitted && desk.assignment.practice) this._judge();
    for (const example of this.examples) new Image().src = `/api/guide/${example.name}.png`;  // for the help card
    if (!this.examples.length && !this.cards) this._fetchCards();
    // The page that was just left here may not have said so yet.
    if (!this.holds) setTimeout(() => this._here(), 800);
  }

  _loadImages() {
    const wanted = [this.desk.assignment.pas_url];
    for (const channel of this.desk.channels) {
      const inUse = channel.name === this.options.channel || this.desk.classes.some((c) => c.marker === channel.name);
      if (inUse) wanted.push(this._asLookedAt(channel.url));
    }
    clearTimeout(this.fetchingAhead);
    this.fetchingAhead = setTimeout(() => this._wantPictures(this.desk?.following.map((url) => this._asLookedAt(url)) ?? [], true), 1500);
    this._wantPictures(wanted);
    // Those asked for last stay.
    for (const url of this.images.keys()) {
      if (this.images.size <= PICTURES_KEPT) break;
      if (!wanted.includes(url)) this.images.delete(url);
    }
    this.redraw();
  }

  _wantPictures(urls, ahead = false) {
    for (const url of urls) {
      const had = this.images.get(url);
      this.images.delete(url);
      this.images.set(url, had ?? null);
      if (had !== undefined) continue;
      const image = new Image();
      image.onload = () => { if (this.images.has(url)) this.images.set(url, image); this.redraw(); };
      image.onerror = () => {
        this.images.delete(url);
        if (ahead) return;
        this.trouble = this.text.no_picture;
        this.refresh();
      };
      image.src = url;
    }
  }

  _asLookedAt(url) {
    return url.replace(/contrast=[^&]*/, `contrast=${this.options.contrast}`).replace(/tint=[^&]*/, `tint=${this.options.tint}`);
  }

  // Picture px per px of the patch: below 1 where the patch is larger than a picture may be.
  _pictureScale(image) { return image.naturalWidth / Math.max(...this.size); }

  // The channel chosen to look at, else the marker of the class in hand.
  _channelShown() {
    const named = (name) => this.desk.channels.find((c) => c.name === name);
    return named(this.options.channel) ?? named(this.classInHand().marker);
  }

  _markerPicture() {
    const channel = this._channelShown();
    return channel ? this.images.get(this._asLookedAt(channel.url)) : null;
  }

  // Outline of where the marker that is shown is bright; of the class in hand where another channel is.
  _brightShown() {
    const name = this._channelShown()?.name;
    const shown = this.desk.classes.find((c) => c.marker === name) ?? this.classInHand();
    return this.brightPaths.get(shown.id);
  }

  // ---------------------------------------------------------- talking to the server

  async _fetch(path, assignment, body) {
    const options = body === undefined ? {} : {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
    };
    // Sent even if the page closes meanwhile; a browser takes little so, and after a failure all is sent plainly.
    if (options.body && !this.offline && sizeOf(options.body) < MOST_KEPT_ALIVE) options.keepalive = true;
    const answer = await fetch(`/api/assignments/${assignment}/${path}`, { credentials: "same-origin", ...options });
    if (answer.ok) return answer.json();
    const error = new Error(answer.status === 401 ? this.text.signed_out : await answer.text());
    error.status = answer.status;
    throw error;
  }

  // Again until the server answers; null if it refuses for good (`refusal` is its status).
  async _retrying(work, assignment = this.assignmentId) {
    this.refusal = null;
    for (let turn = 0; !this.closed && assignment === this.assignmentId; turn++) {
      try {
        const found = await work();
        if (this.offline) {
          this.offline = false;
          if (this.trouble === this.faults) this.trouble = "";
          this.refresh();
        }
        return found;
      } catch (error) {
        if (error.status >= 400 && error.status < 500 && error.status !== 429) {
          this.trouble = error.message;
          this.refusal = error.status;
          this.refresh();
          return null;
        }
        this.offline = true;
        if (error.status === 503) this.trouble = this.faults = error.message;  // such as a full disk, in words
        this.refresh();
        await pause(RETRY_MS[Math.min(turn, RETRY_MS.length - 1)]);
      }
    }
    return null;
  }

  // Keep a gesture, show it, send it.
  emit(kind, data = {}) {
    if (!this.desk) return;
    const observed = ["load", "focus", "blur", "pause", "resume", "comment"].includes(kind);
    if (!observed && this.readOnly && kind !== "reopen") return;
    const gesture = { n: ++this.n, kind, at_ms: Math.round(performance.now() * 10) / 10, ...data };
    this.waitingToSend.push(gesture);
    this.outbox.put(this.assignmentId, this.client, gesture);
    if (!observed) this.trouble = "";
    if (!observed) this.stepping = kind === "undo" || kind === "redo";
    this._reapply();
    this._pump();
    return gesture;
  }

  get handingIn() { return this.waitingToSend.some((g) => g.kind === "submit"); }

  get readOnly() { return !this.desk || !this.holds || this.desk.submitted || this.handingIn; }

  async _pump() {
    if (this.pumping) return;
    this.pumping = true;
    const assignment = this.assignmentId;
    let most = MOST_GESTURES, shutOut = false;
    while (this.waitingToSend.length && !this.closed && assignment === this.assignmentId) {
      const batch = fitting(this.waitingToSend, most);
      const told = await this._retrying(() =>
        this._fetch("acts", assignment, { client: this.client, knows: this.knows, gestures: batch }));
      if (!told) {
        shutOut = CLOSED.includes(this.refusal);
        if (this.refusal === NO_CONSENT) this.tellPage(assignment, this.turn, true);  // it shows the text
        if (this.refusal !== 400) break;  // it all waits, in the browser too
        if (batch.length > 1) { most = 1; continue; }
        // One that the server cannot take at all must not hold up the rest.
        this.outbox.settle(assignment, this.client, batch[0].n);
        this.waitingToSend = this.waitingToSend.filter((g) => g.n > batch[0].n);
        this._reapply();
        continue;
      }
      most = MOST_GESTURES;
      this.outbox.settle(assignment, this.client, told.acknowledged);
      if (assignment !== this.assignmentId) break;
      this.waitingToSend = this.waitingToSend.filter((g) => g.n > told.acknowledged);
      if (told.refused.length) this.trouble = told.refused[told.refused.length - 1].why;
      if (told.queue) this.desk.queue = told.queue;
      this._tell(told);
      if (told.waiting.length) this._fetchMasks();
    }
    this.pumping = false;
    if (!this.waitingToSend.length || shutOut) for (const done of this.whenSent.splice(0)) done();
  }

  // Until the server has settled every gesture, however long it is away.
  _allSent() {
    if (!this.waitingToSend.length) return null;
    this._pump();
    return new Promise((resolve) => this.whenSent.push(resolve));
  }

  async _fetchMasks() {
    if (this.fetching) { this.fetchAgain = true; return; }
    this.fetching = true;
    do {
      this.fetchAgain = false;
      const assignment = this.assignmentId;
      const told = await this._retrying(() => this._fetch("masks", assignment, { client: this.client, knows: this.knows }), assignment);
      if (told && this.desk && assignment === this.assignmentId) {
        if (told.trouble) this.trouble = told.trouble;
        this._tell(told);
      }
    } while (this.fetchAgain);
    this.fetching = false;
  }

  async _sendLeftBehind(assignment) {
    const groups = await this.outbox.leftBehind(assignment, this.client);
    for (const [sender, left] of groups) {
      for (let rest = left; rest.length;) {
        if (this.assignmentId !== assignment) return;
        const batch = fitting(rest, MOST_GESTURES);
        const told = await this._retrying(() =>
          this._fetch("acts", assignment, { client: this.client, knows: this.knows, sender, gestures: batch }));
        if (!told) return;
        this.outbox.settle(assignment, sender, told.acknowledged);
        rest = rest.filter((g) => g.n > told.acknowledged);
        if (this.assignmentId !== assignment) return;
        if (told.refused.length) this.trouble = told.refused[told.refused.length - 1].why;
        this._tell(told);
      }
    }
  }

  // Take news in; an answer that was overtaken by a later one, or is about something else, is asked for anew.
  _tell(told) {
    if (!this.desk) return;  // the desk that is being opened brings all of it
    if (told.n_acts < this.knows || (!told.whole && told.since !== this.knows)) {
      this.knows = null;
      this._fetchMasks();
      return;
    }
    const before = this.stepping ? new Map(this.base) : null;
    if (told.whole) this.base = new Map();
    for (const id of told.removed) this.base.delete(id);
    for (const thing of told.objects) this.base.set(thing.id, thing);
    for (const name of ["class_states", "can_undo", "can_redo", "submitted", "open_points", "n_acts", "saved_at"]) {
      this.desk[name] = told[name];
    }
    if (told.holds !== undefined) this.holds = told.holds;
    const row = this.desk.queue.find((r) => r.id === this.assignmentId);
    if (row) row.state = told.submitted ? "submitted" : "open";
    this.waiting = new Set(told.waiting);
    this.knows = told.n_acts;
    if (this.showOpen) this.showOpen = told.open_points.length > 0;
    this._reapply();
    if (before && !this.waitingToSend.length) {
      this.stepping = false;
      this._selectChanged(before);
    }
  }

  // After undo or redo: what it changed is what the next key is about.
  _selectChanged(before) {
    const changed = [...this.base.values()].filter((thing) => JSON.stringify(before.get(thing.id)) !== JSON.stringify(thing));
    if (changed.length === 1) this.select(changed[0].id);
  }

  _reapply() {
    this.shown = applied(this.base, this.waitingToSend);
    if (this.selected && !this.shown.has(this.selected)) this.selected = null;
    // What is being reshaped may have been taken back or changed meanwhile.
    const reshaped = this.editing && this.shown.get(this.editing.id);
    if (this.editing && this.drag?.kind !== "vertex" && reshaped?.rings !== this.editing.rings) {
      if (reshaped?.rings.length && reshaped.id === this.selected) this._startReshaping();
      else this.takeTool(this._idleTool());
    }
    this.refresh();
  }

  // ---------------------------------------------------------- what people do

  thing() { return this.shown.get(this.selected); }

  classInHand() {
    return this.desk.classes.find((c) => c.id === (this.thing()?.class_id ?? this.classId)) ?? this.desk.classes[0];
  }

  classOf(thing) { return this.desk.classes.find((c) => c.id === thing.class_id) ?? this.desk.classes[0]; }

  things() { return [...this.shown.values()].sort((a, b) => a.number - b.number); }

  // As the panel lists them: those to check first.
  _listed() { return this.things().sort((a, b) => (a.state !== "proposed") - (b.state !== "proposed")); }

  chooseClass(id) {
    this.classId = id;
    if (this.thing() && this.thing().class_id !== id) this.select(null);  // the panes show the class in hand
    this.refresh();
  }

  accept() {
    const thing = this.thing();
    if (!thing || thing.state === "accepted" || !thing.rings.length) return;
    this.emit("accept", { object_ids: [thing.id] });
    this._selectNext();
  }

  acceptClear() {
    const ids = this.things().filter((t) => t.state === "proposed" && t.rings.length && !t.doubts.length && !t.pending);
    if (ids.length) this.emit("accept", { object_ids: ids.map((t) => t.id) });
    this._selectNext();
  }

  reject() {
    if (!this.thing() || this.thing().state === "rejected") return;
    this.emit("reject", { object_id: this.selected });
    this._selectNext();
  }

  remove() {
    const id = this.selected;
    if (!id) return;
    this._selectNext();
    if (this.selected === id) this.selected = null;
    this.emit("delete", { object_id: id });
  }

  step(by, doubtful = false) {
    const list = this._listed().filter((t) => !doubtful || (t.state === "proposed" && (t.doubts.length || t.empty)));
    if (!list.length) return;
    const at = list.findIndex((t) => t.id === this.selected);
    this.select(list[(at + by + list.length) % list.length].id, true);
  }

  // The next to check lies in view and near, of the same class first: the picture must not move under the hand.
  _selectNext() {
    const from = middleOf(this.thing()) ?? [this.view.x, this.view.y];
    const waiting = this.things().filter((t) => t.state === "proposed" && t.id !== this.selected && this._isInView(t));
    const far = (t) => distance(middleOf(t), from) + (t.class_id === (this.thing()?.class_id ?? this.classId) ? 0 : 1e4);
    waiting.sort((a, b) => far(a) - far(b));
    if (waiting.length) this.select(waiting[0].id);
    else this.refresh();
  }

  _isInView(thing) {
    const pane = this.panes()[0], middle = middleOf(thing);
    if (!middle) return false;
    const [sx, sy] = this.toScreen(pane, middle);
    return sx > pane.x && sy > pane.y && sx < pane.x + pane.w && sy < pane.y + pane.h;
  }

  select(id, bringIntoView = false) {
    if (this.selected !== id) {
      if (this.drag?.kind === "vertex") this.drag = this.pressed = null;
      this.draft = [];
      this.redrawing = null;
    }
    this.selected = id;
    if (this.tool === "reshape" && this.editing?.id !== id) {
      this.editing = null;
      if (this.thing()?.rings.length) this._startReshaping();
      else this.tool = this._idleTool();
    }
    const middle = middleOf(this.thing());
    if (bringIntoView && middle) {
      const pane = this.panes()[0];
      const [sx, sy] = this.toScreen(pane, middle);
      const inset = 24;
      if (sx < pane.x + inset || sy < pane.y + inset || sx > pane.x + pane.w - inset || sy > pane.y + pane.h - inset) {
        [this.view.x, this.view.y] = middle;
        this._keepOnPatch();
      }
    }
    this.refresh();
  }

  takeTool(tool) {
    if (this.drag?.kind === "vertex") this.drag = this.pressed = null;
    this.tool = tool;
    this.draft = [];
    this.editing = this.redrawing = null;
    if (tool === "reshape") this._startReshaping();
    this.refresh();
  }

  _startReshaping() {
    const thing = this.thing();
    if (!thing || !thing.rings.length) { this.trouble = this.text.select_first; this.tool = this._idleTool(); return; }
    const ring = thing.rings.reduce((a, b) => (b.length > a.length ? b : a));
    this.editing = { id: thing.id, rings: thing.rings, points: simplified(ring, 0.6) };
  }

  _idleTool() { return this.desk?.assignment.tool === "contour" ? "lasso" : "box"; }

  drawBox(box) {
    const small = Math.min(box[2] - box[0], box[3] - box[1]);
    if (small < 2) { this.trouble = this.text.too_small; this.refresh(); return; }
    const id = uuid();
    this.selected = id;
    this.emit("box", { object_id: id, class_id: this.classId, box: box.map((v) => Math.round(v * 100) / 100) });
  }

  async handIn() {
    if (this.handingIn) return;
    if (this.desk.submitted) { this.nextPatch(); return; }
    const assignment = this.assignmentId, turn = this.turn;
    const elsewhere = () => this.closed || turn !== this.turn || assignment !== this.assignmentId || !this.desk;
    await this._allSent();  // what was just kept may still be on its way
    while (this.knows === null && !elsewhere()) await pause(50);
    if (elsewhere() || this.desk.submitted || this.waitingToSend.length) return;
    this.showOpen = this.desk.open_points.length > 0;
    if (this.showOpen) { this.refresh(); return; }
    this.emit("submit");
    await this._allSent();
    if (elsewhere() || !this.desk.submitted) return;
    if (this.desk.assignment.practice) this._judge();
    else this.nextPatch();
  }

  // What was right and wrong on a practice patch.
  async _judge() {
    const assignment = this.assignmentId;
    const told = await this._retrying(() => this._fetch(`verdicts?client=${encodeURIComponent(this.client)}`, assignment));
    if (!told || assignment !== this.assignmentId || !this.desk?.submitted) return;
    this.verdicts = told;
    this.selected = null;
    this.refresh();
  }

  // Cards from the study's own gold, for the help; a study without any has none.
  async _fetchCards() {
    const assignment = this.assignmentId;
    const told = await this._fetch("cards", assignment).catch(() => ({ cards: [] }));
    if (assignment !== this.assignmentId) return;
    this.cards = told.cards;
    for (const card of this.cards) new Image().src = card.url;
    this.refresh();
  }

  // Shown before a patch is begun, until it is dismissed.
  _remind(refresh) {
    this.reminder = { ...refresh, since: performance.now() };
    if (!this.examples.length) this._fetchCards();
    this.refresh();
    return new Promise((resolve) => { this.reminded = resolve; });
  }

  async _dismissReminder() {
    const { id, since } = this.reminder, assignment = this.assignmentId;
    const seconds = Math.round((performance.now() - since) / 100) / 10;
    this.reminder = null;
    this._awake();
    this.refresh();
    await this._retrying(() => this._fetch("refresh", assignment, { client: this.client, refresh: id, seconds }));
    this.reminded();
  }

  nextPatch() {
    const next = this.desk.queue.find((r) => r.state === "open" && r.id !== this.assignmentId)
      ?? this.desk.queue.find((r) => r.state === "waiting" && r.id !== this.assignmentId);
    if (!next) { this.finished = true; this.refresh(); return; }
    this.goTo(next.id);
  }

  async goTo(id) {
    const turn = ++this.turn;
    await this._allSent();
    if (turn !== this.turn) return;  // somewhere else by now
    this.waitingToSend = [];  // what this patch did not take stays in the browser for it
    this._here({ leave: true });
    this.open(id);
  }

  async _here(more = {}) {
    if (!this.desk || this.closed) return;
    try {
      const assignment = this.assignmentId;
      const told = await this._fetch("here", assignment, { client: this.client, ...more });
      if (more.leave || assignment !== this.assignmentId || told.holds === this.holds) return;
      this.holds = told.holds;
      if (told.holds) this._fetchMasks();  // another tab may have drawn meanwhile
      this.refresh();
    } catch { /* the next gesture says whether the server is there */ }
  }

  // ---------------------------------------------------------- the view

  panes() {
    const { width, height } = this.stageSize;
    if (this.mode !== "side") return [{ x: 0, y: 0, w: width, h: height, shows: "pas" }];
    const gap = 6, w = (width - gap) / 2;
    return [{ x: 0, y: 0, w, h: height, shows: "pas" }, { x: w + gap, y: 0, w, h: height, shows: "marker" }];
  }

  get mode() { return this._hasMarker() ? this.options.mode : "single"; }

  _hasMarker() { return !!this.desk?.channels.length; }

  scale() {
    const pane = this.panes()[0];
    return this.view.zoom * Math.min(pane.w / this.size[0], pane.h / this.size[1]);
  }

  toScreen(pane, [x, y]) {
    const s = this.scale();
    return [(x - this.view.x) * s + pane.x + pane.w / 2, (y - this.view.y) * s + pane.y + pane.h / 2];
  }

  toPatch(pane, [sx, sy]) {
    const s = this.scale();
    return [(sx - pane.x - pane.w / 2) / s + this.view.x, (sy - pane.y - pane.h / 2) / s + this.view.y];
  }

  paneAt([sx]) { const panes = this.panes(); return panes.find((p) => sx >= p.x && sx < p.x + p.w + 6) ?? panes[0]; }

  fit() {
    this.view = { x: this.size[0] / 2, y: this.size[1] / 2, zoom: 1 };
    this.refresh();
  }

  zoomAt(screen, factor) {
    const pane = this.paneAt(screen), before = this.toPatch(pane, screen);
    this.view.zoom = Math.min(LARGEST_ZOOM, Math.max(1, this.view.zoom * factor));
    const after = this.toPatch(pane, screen);
    this.view.x += before[0] - after[0];
    this.view.y += before[1] - after[1];
    this._keepOnPatch();
    clearTimeout(this.zoomed);
    this.zooming = true;  // outlines are stretched until the wheel rests; the bar shows the zoom then
    this.zoomed = setTimeout(() => { this.zooming = false; this.refresh(); }, 120);
  }

  panBy(dx, dy) {
    const s = this.scale();
    this.view.x -= dx / s;
    this.view.y -= dy / s;
    this._keepOnPatch();
  }

  _keepOnPatch() {
    const pane = this.panes()[0], s = this.scale();
    [["x", pane.w, 0], ["y", pane.h, 1]].forEach(([name, length, axis]) => {
      const half = length / s / 2, size = this.size[axis];
      this.view[name] = half * 2 >= size ? size / 2 : Math.min(size - half, Math.max(half, this.view[name]));
    });
    this.redraw();
  }

  // ---------------------------------------------------------- drawing

  redraw() {
    if (this.frame || this.closed) return;
    this.frame = requestAnimationFrame(() => { this.frame = 0; this._draw(); });
  }

  _draw() {
    if (!this.desk) return;
    const { width, height } = this.stageSize, ratio = window.devicePixelRatio || 1, canvas = this.canvas;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
    }
    const ctx = canvas.getContext("2d", { alpha: false });
    ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
    ctx.fillStyle = "#15161a";
    ctx.fillRect(0, 0, width, height);
    for (const pane of this.panes()) this._drawPane(ctx, pane, ratio);
    this._drawLoupe();
  }

  _drawPane(ctx, pane, ratio) {
    const s = this.scale(), [ox, oy] = this.toScreen(pane, [0, 0]);
    ctx.save();
    ctx.beginPath();
    ctx.rect(pane.x, pane.y, pane.w, pane.h);
    ctx.clip();
    ctx.imageSmoothingEnabled = this.options.smooth && s <= SHARP_FROM;
    const pas = this.images.get(this.desk.assignment.pas_url);
    const marker = this._markerPicture();
    const place = [ox, oy, this.size[0] * s, this.size[1] * s];
    const draw = (image) => {
      const k = image ? this._pictureScale(image) : 0;
      if (image) ctx.drawImage(image, 0, 0, this.size[0] * k, this.size[1] * k, ...place);
    };
    const { mode } = this;
    const blink = this.held.has("blink") && marker;
    if ((pane.shows === "marker") !== !!blink) draw(marker);
    else draw(pas);
    if (mode === "overlay" && marker && !blink) {
      ctx.globalAlpha = this.options.opacity;
      ctx.globalCompositeOperation = "screen";  // where the marker is dark the stain stays as it is
      draw(marker);
      ctx.globalCompositeOperation = "source-over";
      ctx.globalAlpha = 1;
    }
    if (mode === "swipe" && marker && !blink) {
      const at = pane.x + pane.w * this.options.swipe;
      ctx.save();
      ctx.beginPath();
      ctx.rect(at, pane.y, pane.w, pane.h);
      ctx.clip();
      draw(marker);
      ctx.restore();
      ctx.fillStyle = "#ffffff";
      ctx.fillRect(at - 1, pane.y, 2, pane.h);
      ctx.fillRect(at - 7, pane.y + pane.h / 2 - 14, 14, 28);
    }
    if (!this.held.has("hide")) this._drawLayer(ctx, s, ratio, [ox, oy]);
    ctx.translate(ox, oy);
    ctx.scale(s, s);
    const bright = this.options.bright && !this.held.has("hide") && this._brightShown();
    if (bright) {
      ctx.globalAlpha = this.options.outline;
      this._stroke(ctx, bright, "#ffffff", 1.2 / s, 2.4 / s);
      ctx.globalAlpha = 1;
    }
    if (!this.held.has("hide")) this._drawLively(ctx, s);
    if (this.verdicts && this.desk.submitted && !this.held.has("hide")) this._drawVerdicts(ctx, s);
    this._drawInHand(ctx, s);
    ctx.restore();
    this._drawMore(ctx, pane, place);
    this._drawTitle(ctx, pane);
  }

  // What a pane shows, in its upper corner.
  _drawTitle(ctx, pane) {
    const t = this.text, channel = this._channelShown();
    const shown = channel ? this.desk.classes.find((c) => c.marker === channel.name) : null;
    const marker = !channel ? "" : shown ? t.titles.marker.replace("{marker}", channel.name).replace("{name}", shown.name)
      : t.titles.channel.replace("{marker}", channel.name);
    const both = this.mode === "overlay" || this.mode === "swipe";
    const title = pane.shows === "marker" ? marker : both && marker ? `${t.titles.stain} + ${marker}` : t.titles.stain;
    ctx.font = "600 12px sans-serif";
    ctx.textBaseline = "middle";
    const width = ctx.measureText(title).width + 12;
    ctx.fillStyle = "rgba(16,16,24,0.72)";
    ctx.fillRect(pane.x + 4, pane.y + 4, width, 20);
    ctx.fillStyle = "#ffffff";
    ctx.fillText(title, pane.x + 10, pane.y + 14);
  }

  // Hundreds of outlines are drawn once, for both panes and for as long as the view only moves.
  _drawLayer(ctx, s, ratio, [ox, oy]) {
    const layer = this._layerFor(s, ratio), k = s / layer.s / ratio;
    const snap = (value) => Math.round(value * ratio) / ratio;
    ctx.imageSmoothingEnabled = layer.s !== s;
    ctx.drawImage(layer.canvas, snap(ox + layer.x0 * s), snap(oy + layer.y0 * s), layer.canvas.width * k, layer.canvas.height * k);
  }

  _layerFor(s, ratio) {
    const pane = this.panes()[0], half = [pane.w / s / 2, pane.h / s / 2];
    const within = (share) => [0, 1].map((axis) => {
      const middle = axis ? this.view.y : this.view.x, reach = half[axis] * share;
      return [Math.max(-LAYER_RIM, middle - reach), Math.min(this.size[axis] + LAYER_RIM, middle + reach)];
    });
    const state = [this.shown, this.selected, this.waiting, this.options.fill, ratio];
    const seen = within(1), old = this.layer;
    const holds = old && state.every((value, i) => value === old.state[i])
      && seen.every(([low, high], axis) => low >= old.reach[axis][0] - 1e-6 && high <= old.reach[axis][1] + 1e-6);
    if (holds && (old.s === s || this.zooming)) return old;
    const reach = within(2), [[x0, x1], [y0, y1]] = reach;
    const canvas = old?.canvas ?? document.createElement("canvas");
    canvas.width = Math.max(1, Math.ceil((x1 - x0) * s * ratio));
    canvas.height = Math.max(1, Math.ceil((y1 - y0) * s * ratio));
    const ctx = canvas.getContext("2d");
    ctx.setTransform(s * ratio, 0, 0, s * ratio, -x0 * s * ratio, -y0 * s * ratio);
    for (const { thing, path } of this._groups()) this._drawOutline(ctx, s, thing, path, false);
    for (const thing of this.shown.values()) {
      if (thing.id === this.selected || this._isPulsing(thing)) continue;
      if (thing.box && thing.state === "proposed") this._drawBox(ctx, s, thing);
      this._drawTag(ctx, s, thing);
    }
    this.layer = { canvas, s, x0, y0, reach, state };
    return this.layer;
  }

  // A sign at each nucleus of a practice patch; one that was missed is outlined as it should have been.
  _drawVerdicts(ctx, s) {
    for (const verdict of this.verdicts.verdicts) {
      const box = boxOfRings(verdict.rings), colour = VERDICT_COLOURS[verdict.kind];
      if (!box) continue;
      if (verdict.kind !== "right") this._stroke(ctx, pathOf(verdict.rings), colour, 2.4 / s, 5 / s, verdict.kind === "missed" ? [4 / s, 3 / s] : []);
      ctx.font = `700 ${15 / s}px sans-serif`;
      ctx.textBaseline = "bottom";
      ctx.lineWidth = 4 / s;
      ctx.strokeStyle = HALO;
      ctx.strokeText(VERDICT_SIGNS[verdict.kind], box[2] + 1 / s, box[1] + 4 / s);
      ctx.fillStyle = colour;
      ctx.fillText(VERDICT_SIGNS[verdict.kind], box[2] + 1 / s, box[1] + 4 / s);
    }
  }

  // What changes from frame to frame: the selected nucleus, and boxes that wait for their masks.
  _drawLively(ctx, s) {
    for (const thing of this.shown.values()) {
      if (thing.id !== this.selected && !this._isPulsing(thing)) continue;
      if (thing.id === this.selected && thing.rings.length) this._drawOutline(ctx, s, thing, this._pathOf(thing), true);
      if (thing.box && thing.state === "proposed") this._drawBox(ctx, s, thing);
      this._drawTag(ctx, s, thing);
    }
  }

  _isPulsing(thing) { return thing.pending || this.waiting.has(thing.id); }

  // Outlines that look alike are one path.
  _groups() {
    const groups = new Map();
    for (const thing of this.shown.values()) {
      if (!thing.rings.length || thing.id === this.selected) continue;
      const key = `${thing.class_id} ${thing.state}`;
      if (!groups.has(key)) groups.set(key, { thing, path: new Path2D() });
      groups.get(key).path.addPath(this._pathOf(thing));
    }
    return groups.values();
  }

  _pathOf(thing) {
    const kept = this.paths.get(thing.id);
    if (kept && kept.rings === thing.rings) return kept.path;
    const path = pathOf(thing.rings);
    this.paths.set(thing.id, { rings: thing.rings, path });
    return path;
  }

  _drawOutline(ctx, s, thing, path, selected) {
    const colour = this.classOf(thing).colour;
    if (this.options.fill && thing.state !== "rejected") {
      ctx.globalAlpha = 0.3;
      ctx.fillStyle = colour;
      ctx.fill(path, "evenodd");
    }
    ctx.globalAlpha = thing.state === "rejected" ? 0.45 : 1;
    const wide = selected ? 2.8 : 2, halo = wide + 2.4;
    // The halo goes all the way round: between the dashes it keeps the outline in sight.
    const dash = thing.state === "accepted" ? [] : thing.state === "rejected" ? [1.5 / s, 4 / s] : [5 / s, 3 / s];
    this._stroke(ctx, path, colour, wide / s, halo / s, dash);
    ctx.globalAlpha = 1;
  }

  // A dark halo keeps a light line visible on light tissue.
  _stroke(ctx, path, colour, width, halo, dash = []) {
    ctx.lineJoin = "round";
    ctx.strokeStyle = HALO;
    ctx.lineWidth = halo;
    ctx.stroke(path);
    ctx.strokeStyle = colour;
    ctx.lineWidth = width;
    ctx.setLineDash(dash);
    ctx.stroke(path);
    ctx.setLineDash([]);
  }

  _drawBox(ctx, s, thing) {
    const [x0, y0, x1, y1] = this.drag?.kind === "resize" && this.drag.id === thing.id ? this.drag.box : thing.box;
    const selected = thing.id === this.selected;
    ctx.strokeStyle = HALO;
    ctx.lineWidth = 3 / s;
    ctx.strokeRect(x0, y0, x1 - x0, y1 - y0);
    ctx.strokeStyle = this.classOf(thing).colour;
    ctx.lineWidth = (selected ? 1.5 : 1.1) / s;
    ctx.globalAlpha = this._isPulsing(thing) ? 0.55 + 0.35 * Math.sin(performance.now() / 160) : 0.9;
    ctx.strokeRect(x0, y0, x1 - x0, y1 - y0);
    ctx.globalAlpha = 1;
    if (this.waiting.has(thing.id)) this.redraw();
    if (selected && this._hasHandles(thing)) {
      ctx.strokeStyle = "#101018";
      ctx.fillStyle = "#ffffff";
      ctx.lineWidth = 1 / s;
      for (const [hx, hy] of handles([x0, y0, x1, y1])) {
        const lit = this.cursor && !this.drag && Math.abs(hx - this.cursor[0]) * s <= HANDLE_PX + 1 && Math.abs(hy - this.cursor[1]) * s <= HANDLE_PX + 1;
        const half = (HANDLE_PX + (lit ? 2 : 0)) / s;
        ctx.fillStyle = lit ? "#ffb000" : "#ffffff";
        ctx.fillRect(hx - half, hy - half, 2 * half, 2 * half);
        ctx.strokeRect(hx - half, hy - half, 2 * half, 2 * half);
      }
      ctx.fillStyle = "#ffffff";
      this._drawMover(ctx, s, mover([x0, y0, x1, y1], s));
    }
  }

  // Four arrows in a disc: drag it and the box goes along.
  _drawMover(ctx, s, [x, y]) {
    ctx.beginPath();
    ctx.arc(x, y, MOVER_PX / s, 0, 7);
    ctx.fill();
    ctx.stroke();
    ctx.beginPath();
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      const tip = [x + 5.5 * dx / s, y + 5.5 * dy / s];
      ctx.moveTo(x, y);
      ctx.lineTo(...tip);
      for (const side of [1, -1]) {
        ctx.moveTo(...tip);
        ctx.lineTo(tip[0] - 2 * (dx + side * dy) / s, tip[1] - 2 * (dy + side * dx) / s);
      }
    }
    ctx.stroke();
  }

  _drawTag(ctx, s, thing) {
    const selected = thing.id === this.selected, doubtful = thing.doubts.length && thing.state === "proposed";
    if (!selected && !doubtful && s < 2.5) return;
    const box = boxOfRings(thing.rings) ?? thing.box;
    if (!box) return;
    ctx.font = `600 ${11 / s}px sans-serif`;
    ctx.textBaseline = "bottom";
    const tag = `${this.classOf(thing).letter}${selected || s >= 2.5 ? thing.number : ""}${doubtful ? " ?" : ""}`;
    ctx.lineWidth = 3 / s;
    ctx.strokeStyle = "rgba(16,16,24,0.8)";
    ctx.strokeText(tag, box[2] + 2 / s, box[1]);
    ctx.fillStyle = selected ? "#ffffff" : this.classOf(thing).colour;
    ctx.fillText(tag, box[2] + 2 / s, box[1]);
  }

  // What is being drawn, and the cursor, on both panes alike.
  _drawInHand(ctx, s) {
    const colour = this.desk.classes.find((c) => c.id === this.classId)?.colour ?? "#ffffff";
    const drag = this.drag;
    if (drag?.kind === "box") {
      const [x0, y0, x1, y1] = normalBox(drag.from, drag.to, ...this.size);
      const path = new Path2D();
      path.rect(x0, y0, x1 - x0, y1 - y0);
      this._stroke(ctx, path, colour, 1.6 / s, 3.2 / s);
    }
    if (drag?.kind === "stroke") {
      ctx.lineCap = ctx.lineJoin = "round";
      ctx.globalAlpha = 0.55;
      ctx.strokeStyle = this.tool === "erase" ? "#202028" : this.classOf(this.thing() ?? { class_id: this.classId }).colour;
      ctx.lineWidth = this.tool === "lasso" ? 1.6 / s : this.brush;
      ctx.beginPath();
      drag.points.forEach(([x, y], i) => (i ? ctx.lineTo(x, y) : ctx.moveTo(x, y)));
      ctx.stroke();
      ctx.globalAlpha = 1;
    }
    const marks = this.editing?.points ?? this.draft;
    if (marks.length) {
      const path = new Path2D();
      marks.forEach(([x, y], i) => (i ? path.lineTo(x, y) : path.moveTo(x, y)));
      if (this.editing) path.closePath();
      else if (this.cursor && this.tool === "polygon") path.lineTo(...this.cursor);
      if (this.tool !== "extreme") this._stroke(ctx, path, colour, 1.4 / s, 3 / s);
      for (const [x, y] of marks) {
        ctx.fillStyle = "#ffffff";
        ctx.strokeStyle = "#101018";
        ctx.lineWidth = 1 / s;
        ctx.beginPath();
        ctx.arc(x, y, 3.5 / s, 0, 7);
        ctx.fill();
        ctx.stroke();
      }
    }
    for (const [x, y, inside] of this.thing()?.points ?? []) {
      ctx.strokeStyle = "#101018";
      ctx.lineWidth = 4 / s;
      for (const turn of [0, 1]) {
        ctx.beginPath();
        ctx.moveTo(x - 4 / s, y);
        ctx.lineTo(x + 4 / s, y);
        if (inside) { ctx.moveTo(x, y - 4 / s); ctx.lineTo(x, y + 4 / s); }
        ctx.stroke();
        ctx.strokeStyle = inside ? "#ffffff" : "#ffb000";
        ctx.lineWidth = 2 / s;
      }
    }
    if (this.cursor) {
      const [x, y] = this.cursor, reach = 9 / s, gap = 3 / s;
      if (this.tool === "brush" || this.tool === "erase") {
        ctx.strokeStyle = "rgba(255,255,255,0.9)";
        ctx.lineWidth = 1 / s;
        ctx.beginPath();
        ctx.arc(x, y, this.brush / 2, 0, 7);
        ctx.stroke();
        return;
      }
      for (const [style, width] of [["rgba(16,16,24,0.7)", 3], ["#ffffff", 1]]) {
        ctx.strokeStyle = style;
        ctx.lineWidth = width / s;
        ctx.beginPath();
        for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
          ctx.moveTo(x + dx * gap, y + dy * gap);
          ctx.lineTo(x + dx * reach, y + dy * reach);
        }
        ctx.stroke();
      }
    }
  }

  // Where the patch goes on beyond the pane, its edge is lit.
  _drawMore(ctx, pane, [left, top, width, height]) {
    ctx.fillStyle = "rgba(255,255,255,0.85)";
    if (left < pane.x - 1) ctx.fillRect(pane.x, pane.y, 2, pane.h);
    if (top < pane.y - 1) ctx.fillRect(pane.x, pane.y, pane.w, 2);
    if (left + width > pane.x + pane.w + 1) ctx.fillRect(pane.x + pane.w - 2, pane.y, 2, pane.h);
    if (top + height > pane.y + pane.h + 1) ctx.fillRect(pane.x, pane.y + pane.h - 2, pane.w, 2);
  }

  _drawLoupe() {
    const canvas = this.loupe, side = canvas.height, ctx = canvas.getContext("2d");
    ctx.fillStyle = "#15161a";
    ctx.fillRect(0, 0, canvas.width, side);
    const at = this.cursor ?? middleOf(this.thing());
    if (!at) return;
    const [x, y] = at, thing = this.thing();
    // Always larger than the panes show it.
    const about = Math.min(LOUPE_REACH, side / (3.2 * this.scale()));
    const shown = [this.images.get(this.desk.assignment.pas_url), this._markerPicture()];
    ctx.imageSmoothingEnabled = false;
    shown.forEach((image, i) => {
      if (!image) return;
      const left = i * (side + 4), s = side / (2 * about), k = this._pictureScale(image), reach = k * about;
      ctx.save();
      ctx.beginPath();
      ctx.rect(left, 0, side, side);
      ctx.clip();
      ctx.drawImage(image, k * x - reach, k * y - reach, 2 * reach, 2 * reach, left, 0, side, side);
      ctx.translate(left + side / 2 - x * s, side / 2 - y * s);
      ctx.scale(s, s);
      const bright = this._brightShown();
      if (this.held.has("hide")) { ctx.restore(); return; }
      if (this.options.bright && bright) this._stroke(ctx, bright, "#ffffff", 1 / s, 2 / s);
      if (thing?.rings.length) this._drawOutline(ctx, s, thing, this._pathOf(thing), false);
      ctx.restore();
    });
  }

  // ---------------------------------------------------------- pointer

  _at(event) {
    const place = this.canvas.getBoundingClientRect();
    return [event.clientX - place.left, event.clientY - place.top];
  }

  _down(event) {
    if (!this.desk) return;
    this._awake();
    this.byKeyboard = this.pressed = null;
    this.canvas.focus({ preventScroll: true });
    this.canvas.setPointerCapture(event.pointerId);
    const screen = this._at(event), pane = this.paneAt(screen), at = this.toPatch(pane, screen);
    this.pointers.set(event.pointerId, screen);
    if (this.pointers.size === 2) { this.drag = { kind: "pinch" }; return; }
    if (event.button === 1 || this.held.has("pan") || (event.button === 2 && this.tool !== "points")) {
      this.drag = { kind: "pan", last: screen };
      return;
    }
    if (this.mode === "swipe" && Math.abs(screen[0] - pane.w * this.options.swipe) < 8) {
      this.drag = { kind: "swipe" };
      return;
    }
    this.cursor = at;
    if (this.readOnly) { this.drag = { kind: "click", at, start: screen }; return; }
    this._start(event, screen, at);
    this.redraw();
  }

  _start(event, screen, at) {
    const thing = this.thing(), near = HANDLE_PX / this.scale() + 1 / this.scale();
    if (this.tool === "box") {
      if (this._hasHandles(thing)) {
        const handle = handles(thing.box).findIndex((p) => Math.abs(p[0] - at[0]) <= near && Math.abs(p[1] - at[1]) <= near);
        const onMover = distance(mover(thing.box, this.scale()), at) <= (MOVER_PX + 2) / this.scale();
        if (handle >= 0 || onMover) {
          this.drag = { kind: "resize", id: thing.id, handle, from: at, old: thing.box, box: thing.box, start: screen };
          return;
        }
      }
      this.drag = { kind: "box", from: at, to: at, start: screen };
    } else if (this.tool === "brush" || this.tool === "erase" || this.tool === "lasso") {
      this.drag = { kind: "stroke", points: [at], start: screen };
    } else if (this.tool === "reshape" && this.editing) {
      let vertex = this.editing.points.findIndex((p) => distance(p, at) <= near * 1.6);
      if (vertex < 0) vertex = this._insertVertex(at, near * 1.6);
      this.drag = vertex < 0 ? { kind: "click", at, start: screen } : { kind: "vertex", vertex, start: screen };
    } else if (this.tool === "points" && thing && !this._isOnAnother(at)) {
      const inside = event.button === 2 || event.altKey || event.ctrlKey ? 0 : 1;
      this.drag = { kind: "point", at, inside, start: screen };
    } else {
      this.drag = { kind: "mark", at, start: screen };
    }
  }

  _isOnAnother(at) {
    return !contains(this.thing().rings, ...at) && this.things().some((t) => t.id !== this.selected && contains(t.rings, ...at));
  }

  // On a small box they would cover the nucleus, and catch what is drawn beside it: zoom in for them.
  _hasHandles(thing) {
    if (this.tool !== "box" || this.readOnly || !thing?.box || thing.state !== "proposed") return false;
    const [x0, y0, x1, y1] = thing.box;
    return Math.min(x1 - x0, y1 - y0) * this.scale() >= SMALLEST_WITH_HANDLES_PX;
  }

  _insertVertex(at, near) {
    const points = this.editing.points;
    for (let i = 0; i < points.length; i++) {
      if (offLine(at, points[i], points[(i + 1) % points.length]) <= near) {
        points.splice(i + 1, 0, at);
        return i + 1;
      }
    }
    return -1;
  }

  _move(event) {
    if (!this.desk) return;
    const screen = this._at(event), pane = this.paneAt(screen);
    this._moved();
    if (this.pointers.has(event.pointerId)) {
      const before = [...this.pointers.values()].map((p) => p.slice());
      this.pointers.set(event.pointerId, screen);
      if (this.drag?.kind === "pinch" && this.pointers.size === 2) this._pinch(before, [...this.pointers.values()]);
    }
    const drag = this.drag;
    if (drag?.kind === "pan") { this.panBy(screen[0] - drag.last[0], screen[1] - drag.last[1]); drag.last = screen; }
    // While something is drawn its pane stays that in which it was begun.
    const here = drag?.start ? this.paneAt(drag.start) : pane;
    const at = this.toPatch(here, screen);
    this.cursor = at[0] >= 0 && at[1] >= 0 && at[0] < this.size[0] && at[1] < this.size[1] ? at : null;
    if (drag?.kind === "swipe") this.options.swipe = Math.min(1, Math.max(0, screen[0] / pane.w));
    else if (drag?.kind === "box") drag.to = at;
    else if (drag?.kind === "resize") drag.box = resized(drag, at, this.size);
    else if (drag?.kind === "vertex") {
      this.editing.points[drag.vertex] = at;
      drag.moved = true;
    } else if (drag?.kind === "stroke") {
      const events = event.getCoalescedEvents?.() ?? [event];
      for (const e of events.length ? events : [event]) drag.points.push(this.toPatch(here, this._at(e)));
    }
    this.redraw();
  }

  _pinch(before, now) {
    const middle = (p) => [(p[0][0] + p[1][0]) / 2, (p[0][1] + p[1][1]) / 2];
    const a = middle(before), b = middle(now);
    this.panBy(b[0] - a[0], b[1] - a[1]);
    this.zoomAt(b, distance(...now) / Math.max(1, distance(...before)));
  }

  _up(event) {
    this.pointers.delete(event.pointerId);
    const drag = this.drag;
    if (!drag || (drag.kind === "pinch" && this.pointers.size)) return;
    this.drag = null;
    const screen = this._at(event);
    const clicked = drag.start && distance(screen, drag.start) < CLICK_PX;
    if (drag.kind === "box") {
      if (clicked) this._click(drag.from);
      else this.drawBox(normalBox(drag.from, drag.to, ...this.size));
    } else if (drag.kind === "resize") {
      if (clicked) this._click(drag.from);
      else this.emit("move", { object_id: drag.id, box: drag.box });
    } else if (drag.kind === "stroke") this._endStroke(drag.points, clicked);
    else if (drag.kind === "vertex") { if (drag.moved) this._sendReshaped(); }
    else if (drag.kind === "point") this.emit("points", { object_id: this.selected, points: [[...drag.at, drag.inside]] });
    else if (drag.kind === "mark") this._mark(drag.at);
    else if (drag.kind === "click" && clicked) this._click(drag.at);
    else if (drag.kind === "swipe") this._remember();
    this.redraw();
  }

  _click([x, y]) {
    const hit = this.things().filter((t) => {
      const box = boxOfRings(t.rings) ?? t.box;
      return box && x >= box[0] - 2 && y >= box[1] - 2 && x <= box[2] + 2 && y <= box[3] + 2;
    });
    const size = (t) => { const b = boxOfRings(t.rings) ?? t.box; return (b[2] - b[0]) * (b[3] - b[1]); };
    const inside = hit.filter((t) => contains(t.rings, x, y));
    const best = (inside.length ? inside : hit).sort((a, b) => size(a) - size(b))[0];
    this.select(best?.id ?? null);
  }

  _endStroke(points, clicked) {
    if (this.tool === "lasso") {
      if (clicked) { this._click(points[0]); return; }
      this._sendOutline(points, "lasso", this.redrawing);
      return;
    }
    const erase = this.tool === "erase", thing = this.thing();
    if (erase && !thing) { this.trouble = this.text.select_first; this.refresh(); return; }
    const target = thing ? { object_id: thing.id } : { object_id: uuid(), class_id: this.classId };
    if (!thing) this.selected = target.object_id;
    this.emit("paint", { ...target, points: thinned(points), width_px: this.brush, erase });
  }

  // A corner of a polygon, or one of four outermost points.
  _mark(at) {
    if (this.tool === "polygon" && this.draft.length > 2 && distance(at, this.draft[0]) < 8 / this.scale()) {
      this._closePolygon();
      return;
    }
    if (this.tool === "points") { this._click(at); return; }
    this.draft.push(at);
    if (this.tool === "extreme" && this.draft.length === 4) {
      const box = boxOfPoints(this.draft);
      this.draft = [];
      this.drawBox(normalBox([box[0], box[1]], [box[2], box[3]], ...this.size));
    }
  }

  _closePolygon() {
    if (this.draft.length > 2) this._sendOutline(this.draft, "polygon", this.redrawing);
    this.draft = [];
  }

  _sendOutline(points, tool, id) {
    const target = id ? { object_id: id } : { object_id: uuid(), class_id: this.classId };
    this.selected = target.object_id;
    this.redrawing = null;
    this.emit("outline", { ...target, points: thinned(points), tool });
  }

  _sendReshaped() {
    this.emit("outline", { object_id: this.editing.id, points: thinned(this.editing.points), tool: "polygon" });
  }

  _wheel(event) {
    event.preventDefault();
    this._moved();
    if (!this.desk) return;
    // A trackpad's two fingers move sideways too; its pinch comes with ctrlKey.
    if (event.shiftKey || (event.deltaX && !event.ctrlKey)) this.panBy(-event.deltaX - (event.shiftKey ? event.deltaY : 0), event.shiftKey ? 0 : -event.deltaY);
    else this.zoomAt(this._at(event), Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.0018) * (event.deltaMode ? 20 : 1)));
  }

  // ---------------------------------------------------------- keys

  _keys() {
    const t = this.text.keys;
    const box = this.desk?.assignment.tool !== "contour";
    return [
      ...(this.desk?.classes ?? []).map((c) => [c.key, c.name, () => this.chooseClass(c.id)]),
      ["a", t.accept, () => this.accept()],
      ["A", t.accept_clear, () => this.acceptClear()],
      ["x", t.reject, () => this.reject()],
      ["Delete", t.remove, () => this.remove()],
      ["d", t.next, () => this.step(1)],
      ["s", t.previous, () => this.step(-1)],
      ["k", t.change_class, () => this.changeClass()],
      ["w", t.doubtful, () => this.step(1, true)],
      ...(box ? [["v", t.box, () => this.takeTool("box")], ["o", t.extreme, () => this.takeTool("extreme")],
        ["i", t.points, () => this.takeTool("points")]] : []),
      ["b", t.brush, () => this.takeTool("brush")],
      ["e", t.erase, () => this.takeTool("erase")],
      ["[", t.thinner, () => this._size(-1)],
      ["]", t.thicker, () => this._size(1)],
      ["l", t.lasso, () => this.takeTool("lasso")],
      ["p", t.polygon, () => this.takeTool("polygon")],
      ["g", t.reshape, () => this.takeTool("reshape")],
      ["Enter", t.finish, (event) => this._finish(event)],
      ["Escape", t.cancel, () => this._cancel()],
      ["Ctrl+z", t.undo, () => this.emit("undo")],
      ["Ctrl+y", t.redo, () => this.emit("redo")],
      ["Ctrl+Z", t.redo, () => this.emit("redo")],
      ["t", t.bright, () => this._option("bright", !this.options.bright)],
      ["f", t.fill, () => this._option("fill", !this.options.fill)],
      ["m", t.mode, () => this._nextMode()],
      ["0", t.fit, () => this.fit()],
      ["n", t.hand_in, () => this.handIn()],
      ["?", t.help, () => this._toggleHelp()],
    ];
  }

  // The selected nucleus gets the next class; the class of the next box stays.
  changeClass() {
    const thing = this.thing(), ids = this.desk.classes.map((c) => c.id);
    if (!thing || ids.length < 2) return;
    this.emit("class", { object_id: thing.id, class_id: ids[(ids.indexOf(thing.class_id) + 1) % ids.length] });
  }

  _size(by) {
    this.brush = Math.min(60, Math.max(1, Math.round(this.brush * (by > 0 ? 1.3 : 1 / 1.3) + by * 0.4)));
    this.redraw();
    this.refresh();
  }

  _finish(event) {
    if (this.byKeyboard && this.cursor) this._keyboardPress(event.shiftKey ? 0 : 1);
    else if (this.tool === "polygon" && this.draft.length > 2) this._closePolygon();
    else if (this.tool === "reshape") this.takeTool(this._idleTool());
  }

  _cancel() {
    this.redrawing = null;
    if (this.draft.length) this.draft = [];
    else if (this.drag) {
      this.drag = this.pressed = null;
      if (this.editing) this._startReshaping();  // the point goes back to where it was
    }
    else if (this.tool !== this._idleTool()) this.takeTool(this._idleTool());
    else this.selected = null;
    this.refresh();
  }

  // Without a pointer: arrows move the cursor (with Shift by 10 px), Enter presses and releases the tool.
  _arrow(event) {
    const by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!by) return false;
    const far = event.shiftKey ? 10 : 1;
    this.byKeyboard = true;
    const [x, y] = this.cursor ?? [this.view.x, this.view.y];
    this.cursor = [Math.min(this.size[0] - 1, Math.max(0, x + far * by[0])), Math.min(this.size[1] - 1, Math.max(0, y + far * by[1]))];
    const drag = this.pressed ? this.drag : null;
    if (drag?.kind === "box") drag.to = this.cursor;
    else if (drag?.kind === "stroke") drag.points.push(this.cursor);
    else if (drag?.kind === "vertex") this.editing.points[drag.vertex] = this.cursor;
    this.redraw();
    return true;
  }

  _keyboardPress(inside) {
    const at = this.cursor, drag = this.drag;
    if (this.readOnly) return;
    if (this.pressed) {
      this.pressed = this.drag = null;
      if (drag?.kind === "box") this.drawBox(normalBox(drag.from, at, ...this.size));
      else if (drag?.kind === "stroke") this._endStroke(drag.points, false);
      else if (drag?.kind === "vertex") this._sendReshaped();
    } else if (this.tool === "box") this._pressAt({ kind: "box", from: at, to: at });
    else if (["brush", "erase", "lasso"].includes(this.tool)) this._pressAt({ kind: "stroke", points: [at] });
    else if (this.tool === "reshape" && this.editing) {
      const far = this.editing.points.map((p) => distance(p, at));
      this._pressAt({ kind: "vertex", vertex: far.indexOf(Math.min(...far)) });
    } else if (this.tool === "points" && this.thing()) this.emit("points", { object_id: this.selected, points: [[...at, inside]] });
    else if (this.tool === "polygon" && this.draft.length > 2 && distance(at, this.draft[this.draft.length - 1]) < 1) this._closePolygon();
    else this._mark(at);
    this.redraw();
  }

  _pressAt(drag) {
    this.pressed = true;
    this.drag = drag;
  }

  _key(event) {
    if (!this.desk || this.closed) return;
    const path = event.composedPath();
    const typing = path[0] instanceof HTMLElement && (path[0].isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(path[0].tagName))
      && !(path[0].type === "range" || path[0].type === "checkbox");
    if (!this.cover.hidden && (!typing || event.key === "Escape")) { this._keyOnCover(event); return; }
    if (typing) return;
    this._awake();
    const hold = HELD[event.key.toLowerCase()];
    if (hold && !event.ctrlKey && !event.metaKey) {
      if (path[0] instanceof HTMLButtonElement && event.key === " ") return;
      this.held.add(hold);
      this.canvas.style.cursor = hold === "pan" ? "grab" : "none";
      this.redraw();
      event.preventDefault();
      event.stopPropagation();
      return;
    }
    if (path.includes(this.canvas) && this._arrow(event)) { event.preventDefault(); event.stopPropagation(); return; }
    if (event.altKey || (path[0] instanceof HTMLButtonElement && event.key === "Enter")) return;
    // Caps Lock must not turn one key into another.
    const letter = event.key.length > 1 ? event.key : event.shiftKey ? event.key.toUpperCase() : event.key.toLowerCase();
    const name = event.ctrlKey || event.metaKey ? `Ctrl+${letter}` : letter === "Backspace" ? "Delete" : letter;
    if (this.draft.length && (name === "Ctrl+z" || name === "Delete")) {
      this.draft.pop();
      this.redraw();
      event.preventDefault();
      event.stopPropagation();
      return;
    }
    const found = this._keys().find(([key]) => key === name);
    if (!found || (event.repeat && !["[", "]", "d", "s"].includes(name))) return;
    event.preventDefault();
    event.stopPropagation();
    found[2](event);
  }

  // A card lies over the panes: no key may change what it hides.
  _keyOnCover(event) {
    const opens = event.key === "Escape" || (event.key === "?" && this.help);
    if (this.idle) this._awake();
    else if (opens && (this.help || this.asking)) {
      this.help = this.asking = null;
      this.refresh();
      this.canvas.focus({ preventScroll: true });
    } else if (opens && this.finished) { this.finished = false; this.refresh(); }
    else return;  // Tab, Enter and Space go on to the card's own buttons
    event.preventDefault();
    event.stopPropagation();
  }

  _keyUp(event) {
    const hold = HELD[event.key.toLowerCase()];
    if (hold && this.held.delete(hold)) { this.canvas.style.cursor = "none"; this.redraw(); }
  }

  // ---------------------------------------------------------- options, idleness, the rest

  _option(name, value) {
    this.options[name] = value;
    this._remember();
    if (name === "contrast" || name === "tint") this._loadImages();
    this.refresh();
  }

  _nextMode() {
    const at = MODES.indexOf(this.options.mode);
    this._option("mode", MODES[(at + 1) % MODES.length]);
    this._keepOnPatch();
  }

  _remembered() {
    try { return JSON.parse(localStorage.getItem("allinsam-view") ?? "{}"); } catch { return {}; }
  }

  _remember() {
    try { localStorage.setItem("allinsam-view", JSON.stringify(this.options)); } catch { /* nothing is lost */ }
  }

  // What was in view and selected when the patch was left.
  _rememberPlace() {
    if (!this.desk) return;
    const place = { assignment: this.assignmentId, view: this.view, selected: this.selected, classId: this.classId };
    try { localStorage.setItem("allinsam-place", JSON.stringify(place)); } catch { /* nothing is lost */ }
  }

  _returnToPlace() {
    let place = null;
    try { place = JSON.parse(localStorage.getItem("allinsam-place")); } catch { /* as if there were none */ }
    if (place?.assignment !== this.assignmentId) return false;
    const { x, y, zoom } = place.view ?? {};
    if ([x, y, zoom].every(Number.isFinite)) this.view = { x, y, zoom };
    if (this.desk.classes.some((c) => c.id === place.classId)) this.classId = place.classId;
    if (this.shown.has(place.selected)) this.selected = place.selected;
    this._keepOnPatch();
    this.refresh();
    return this.shown.has(place.selected);
  }

  _moved() { this.lastInput = performance.now(); }

  _away(away) {
    if (away) this.held.clear();
    else this._moved();
    if (!!this.gone === away) return;
    this.gone = away;
    if (this.reminder) return;  // the patch has not begun yet
    this.emit(away ? "blur" : "focus");
  }

  _awake() {
    this._moved();
    if (this.idle) { this.idle = false; this.refresh(); }
  }

  _tick() {
    if (this.closed) return;
    if (!this.desk) { if (this.refusal) this.open(this.assignmentId); return; }
    this._here();
    if (this.waitingToSend.length) this._pump();  // after signing in again in another tab
    if (!this.desk.submitted && !this.fetching && (this.waiting.size || this.knows === null)) this._fetchMasks();
    if (!document.hidden && !this.paused && !this.desk.submitted && performance.now() - this.lastInput > IDLE_MS && !this.idle) {
      this.idle = true;
      this.refresh();
    }
  }

  setPaused(paused) {
    if (this.paused === paused) return;
    this.paused = paused;
    this.emit(paused ? "pause" : "resume");
    this.refresh();
  }

  _toggleHelp() {
    this.help = !this.help;
    this.refresh();
  }

  _listen() {
    const on = (target, name, work, options) => {
      target.addEventListener(name, work, options);
      (this.undo ??= []).push(() => target.removeEventListener(name, work, options));
    };
    on(this.canvas, "pointerdown", (e) => this._down(e));
    on(this.canvas, "pointermove", (e) => this._move(e));
    on(this.canvas, "pointerup", (e) => this._up(e));
    on(this.canvas, "pointercancel", (e) => { this.pointers.delete(e.pointerId); this.drag = null; this.redraw(); });
    on(this.canvas, "pointerleave", () => { if (!this.drag) { this.cursor = null; this.redraw(); } });
    on(this.canvas, "dblclick", () => { if (this.tool === "polygon") this._closePolygon(); });
    on(this.canvas, "contextmenu", (e) => e.preventDefault());
    on(this.canvas, "wheel", (e) => this._wheel(e), { passive: false });
    on(window, "keydown", (e) => this._key(e), true);
    on(window, "keyup", (e) => this._keyUp(e), true);
    on(window, "blur", () => this._away(true));
    on(window, "focus", () => this._away(false));
    on(document, "visibilitychange", () => this._away(document.hidden));
    on(window, "resize", () => this._measure());
    on(window, "online", () => this._pump());
    on(window, "pagehide", () => { this._rememberPlace(); this._here({ leave: true }); });
    this._moved();
    const timer = setInterval(() => this._tick(), PRESENT_EVERY_MS);
    const watch = new ResizeObserver(() => this._measure());
    watch.observe(this.stage);
    const page = document.querySelector(".stMainBlockContainer");  // what stands above may come and go
    if (page) watch.observe(page);
    this.undo.push(() => clearInterval(timer), () => watch.disconnect());
  }

  close() {
    this._here({ leave: true });
    this.closed = true;
    for (const undo of this.undo) undo();
    this.root.replaceChildren();
  }

  // ---------------------------------------------------------- what stands round the panes

  _build() {
    this.canvas = h("canvas", { tabindex: "0", "aria-label": this.text.canvas, role: "application" });
    this.loupe = h("canvas", { width: 216, height: 106, class: "loupe", "aria-hidden": "true" });
    this.stage = h("div", { class: "stage" }, this.canvas);
    this.bar = h("div", { class: "bar", role: "toolbar" });
    this.panel = h("div", { class: "panel" });
    this.foot = h("div", { class: "foot" });
    this.cover = h("div", { class: "cover", hidden: true });
    this.frameBox = h("div", { class: "surface" }, this.bar,
      h("div", { class: "middle" }, this.stage, h("div", { class: "side" }, this.panel, this.loupe)), this.foot, this.cover);
    this.root.replaceChildren(this.frameBox);
    this.stageSize = { width: 10, height: 10 };
    this._measure();
  }

  _measure() {
    const top = this.frameBox.getBoundingClientRect().top + window.scrollY;
    this.frameBox.style.height = `${Math.max(430, window.innerHeight - Math.max(0, top) - 10)}px`;
    const place = this.stage.getBoundingClientRect();
    this.stageSize = { width: Math.max(10, place.width), height: Math.max(10, place.height) };
    this.canvas.style.width = `${this.stageSize.width}px`;
    this.canvas.style.height = `${this.stageSize.height}px`;
    if (this.desk) this._keepOnPatch();
  }

  _say(text) {
    this.message = text;
    this.refresh();
  }

  refresh() {
    if (this.refreshing || this.closed) return;
    this.refreshing = true;
    queueMicrotask(() => {
      this.refreshing = false;
      if (this.closed) return;
      // What is drawn anew must not take the focus from who works by keyboard.
      const named = (element) => element?.dataset?.name ?? element?.textContent;
      const focused = named(this.root.getRootNode().activeElement);
      const scrolled = this.panel.querySelector(".chips")?.scrollTop ?? 0;
      this._showBar();
      this._showPanel();
      this._showFoot();
      const chips = this.panel.querySelector(".chips");
      if (chips) chips.scrollTop = scrolled;
      if (this.selected !== this.scrolledTo) {
        this.scrolledTo = this.selected;
        this.panel.querySelector(".chip.pressed")?.scrollIntoView({ block: "nearest" });
      }
      if (focused && !this.root.getRootNode().activeElement) {
        const again = [...this.root.querySelectorAll("button, select, input")].find((b) => named(b) === focused && !b.disabled);
        (again ?? this.canvas).focus({ preventScroll: true });
      }
      this._showCover();
      this.redraw();
    });
  }

  _button(label, key, work, more = {}) {
    const shown = key ? h("kbd", {}, key) : null;
    const { pressed, disabled, kind, title, name } = more;
    return h("button", {
      type: "button", "data-name": name ?? null, class: [kind ?? "", pressed ? "pressed" : ""].join(" ").trim(), disabled: !!disabled,
      "aria-pressed": pressed === undefined ? null : String(pressed), title: title ?? null,
      onclick: (event) => { work(); if (event.detail) this.canvas.focus({ preventScroll: true }); },
    }, label, shown);
  }

  _showBar() {
    if (!this.desk) { this.bar.replaceChildren(this.message ?? ""); return; }
    const t = this.text, box = this.desk.assignment.tool !== "contour", off = this.readOnly;
    const tool = (name, key) => this._button(t.tools[name], key, () => this.takeTool(name), { pressed: this.tool === name, disabled: off });
    const classes = this.desk.classes.map((c) => h("button", {
      type: "button", class: `class ${c.id === this.classId ? "pressed" : ""}`, "aria-pressed": String(c.id === this.classId),
      style: { borderLeftColor: c.colour }, onclick: () => { this.chooseClass(c.id); this.canvas.focus(); },
    }, `${c.letter} · ${c.name}`, h("kbd", {}, c.key)));
    const modes = this._hasMarker() ? h("select", {
      "aria-label": t.mode, onchange: (e) => { this._option("mode", e.target.value); this._keepOnPatch(); this.canvas.focus(); },
    }, MODES.map((m) => h("option", { value: m, selected: m === this.options.mode }, t.modes[m]))) : null;
    this.bar.replaceChildren(...[
      h("span", { class: "group" }, classes),
      h("span", { class: "group" }, box && tool("box", "V"), box && tool("extreme", "O"), box && tool("points", "I"),
        tool("brush", "B"), tool("erase", "E"), tool("lasso", "L"), tool("polygon", "P")),
      h("span", { class: "group" },
        this._button(t.undo, "Ctrl Z", () => this.emit("undo"), { disabled: off || !this.desk.can_undo }),
        this._button(t.redo, "Ctrl Y", () => this.emit("redo"), { disabled: off || !this.desk.can_redo })),
      (this.tool === "brush" || this.tool === "erase") && h("span", { class: "note" }, `${this.brush} px`, h("kbd", {}, "[ ]")),
      h("span", { class: "stretch" }), modes,
      this._button(`${Math.round(this.view.zoom * 10) / 10}x`, "0", () => this.fit(), { title: t.keys.fit }),
      this._button(t.view, null, () => { this.viewOpen = !this.viewOpen; this.refresh(); }, { pressed: !!this.viewOpen }),
      this._button(t.help, "?", () => this._toggleHelp(), { pressed: !!this.help }),
    ].filter(Boolean));
  }

  _showPanel() {
    if (!this.desk) { this.panel.replaceChildren(); return; }
    const parts = [this._status(), ...this._notices()];
    if (this.viewOpen) parts.push(this._viewOptions());
    else if (this.verdicts && this.desk.submitted) parts.push(this._verdictList());
    else {
      const thing = this.thing();
      if (thing) parts.push(this._card(thing));
      const hint = this._hint(thing);
      if (hint) parts.push(h("p", { class: "hint" }, hint));
      parts.push(this._list());
    }
    this.panel.replaceChildren(...parts);
  }

  // What the tool in hand does now; the box says so only until there are some.
  _hint(thing) {
    if (this.readOnly || (this.tool === "box" && this.shown.size)) return "";
    const name = this.desk.classes.find((c) => c.id === this.classId)?.name ?? "", t = this.text.hints;
    if (this.tool === "lasso" && this.redrawing) return t.redraw;
    return ((thing && t[`${this.tool}_on`]) || t[this.tool] || "").replace("{name}", name)
      .replace("{number}", thing ? `${this.classOf(thing).letter}${thing.number}` : "");
  }

  _status() {
    const t = this.text, waiting = this.waitingToSend.filter((g) => !["focus", "blur", "load"].includes(g.kind)).length;
    const done = this.desk.queue.filter((row) => row.state === "submitted").length;
    const saved = this.offline ? t.offline.replace("{n}", waiting)
      : waiting ? t.saving : this.shown.size || this.desk.submitted ? t.saved.replace("{n}", this.desk.n_acts) : t.nothing_yet;
    return h("div", { class: `status ${this.offline ? "bad" : waiting ? "busy" : "good"}`, role: "status" }, saved,
      h("div", { class: "progress" }, t.progress.replace("{done}", done).replace("{all}", this.desk.queue.length)));
  }

  _notices() {
    const t = this.text, parts = [];
    if (this.desk.assignment.practice && !this.desk.submitted) parts.push(h("div", { class: "practice" }, t.practice));
    if (this.trouble) parts.push(h("div", { class: "trouble", role: "alert" }, this.trouble));
    if (!this.holds) {
      parts.push(h("div", { class: "trouble" }, t.second_tab, this._button(t.take_over, null, () => this._here({ take_over: true }))));
    }
    if (this.showOpen && this.desk.open_points.length) {
      const lines = this.desk.open_points.map((point) => {
        const c = this.desk.classes.find((k) => k.id === point.class_id);
        return h("li", {}, t.open[point.kind].replace("{name}", c.name).replace("{n}", point.object_ids.length));
      });
      parts.push(h("div", { class: "trouble" }, t.not_yet, h("ul", {}, lines)));
    }
    return parts;
  }

  _verdictList() {
    const t = this.text, { verdicts, f1 } = this.verdicts;
    const name = (id) => this.desk.classes.find((c) => c.id === id)?.name ?? "";
    const wrong = verdicts.filter((v) => v.kind !== "right"), right = verdicts.length - wrong.length;
    const words = (v) => t.verdicts[v.kind].replace("{name}", name(v.class_id)).replace("{true}", name(v.true_class_id));
    return h("div", { class: "list verdicts" },
      h("div", { class: "counts" }, t.practice_result.replace("{right}", right).replace("{wrong}", wrong.length)),
      h("div", { class: "note" }, t.practice_score.replace("{share}", Math.round(100 * f1))),
      wrong.map((v) => h("button", { type: "button", class: "verdict", onclick: () => {
        const box = boxOfRings(v.rings);
        if (!box) return;
        this.view = { x: (box[0] + box[2]) / 2, y: (box[1] + box[3]) / 2, zoom: Math.max(3, this.view.zoom) };
        this._keepOnPatch();
        this.refresh();
      } }, h("b", { style: { color: "#101018" } }, VERDICT_SIGNS[v.kind]), ` ${words(v)}`)),
      !wrong.length && h("div", {}, t.practice_all_right),
      h("div", { class: "note" }, t.practice_next));
  }

  _list() {
    const things = this._listed();
    const count = (state) => things.filter((t) => t.state === state).length;
    const clear = things.filter((t) => t.state === "proposed" && t.rings.length && !t.doubts.length && !t.pending).length;
    // Nothing was looked for that could make a suggestion a clear one.
    const keep = this.desk.assignment.guidance === "suggestion" ? this.text.keep_all : this.text.keep_clear;
    const counts = ["proposed", "accepted", "rejected"].filter(count).map((s) => `${count(s)} ${this.text.states[s]}`).join(", ");
    return h("div", { class: "list" },
      counts && h("div", { class: "counts" }, counts),
      clear > 1 && !this.readOnly && this._button(keep.replace("{n}", clear), "Shift A", () => this.acceptClear()),
      h("div", { class: "chips" }, things.map((thing) => h("button", {
        type: "button", class: `chip ${thing.id === this.selected ? "pressed" : ""}`, "aria-pressed": String(thing.id === this.selected),
        style: { borderLeftColor: this.classOf(thing).colour }, onclick: () => this.select(thing.id, true),
      }, `${this.classOf(thing).letter}${thing.number} ${STATE_MARKS[thing.state]}${thing.doubts.length && thing.state === "proposed" ? " ?" : ""}`))));
  }

  _card(thing) {
    const t = this.text, c = this.classOf(thing), off = this.readOnly;
    const busy = thing.pending || this.waiting.has(thing.id);
    // Where it is dim the server says so among the doubts.
    const support = thing.support == null || thing.support < DIM_SUPPORT ? null : h("div", { class: "badge" },
      t.support.replace("{share}", Math.round(100 * thing.support)));
    return h("div", { class: "card" },
      h("div", { class: "card-title" }, h("i", { style: { background: c.colour } }), `${c.letter}${thing.number} · ${c.name} · ${t.states[thing.state]}`),
      !off && h("div", { class: "actions" },
        this._button(t.accept, "A", () => this.accept(), { kind: "primary", disabled: busy || thing.state === "accepted" || !thing.rings.length }),
        this._button(t.reject, "X", () => this.reject(), { disabled: thing.state === "rejected" }),
        this._button(t.remove, "Del", () => this.remove())),
      busy && h("div", { class: "note" }, t.waiting),
      !busy && thing.rings.length ? support : null,
      thing.doubts.map((doubt) => h("div", { class: "doubt" }, doubt)),
      !off && h("div", { class: "actions" },
        this.desk.classes.length > 1 && this._button(t.change_class, "K", () => this.changeClass()),
        this._button(t.reshape, "G", () => this.takeTool("reshape"), { disabled: !thing.rings.length, pressed: this.tool === "reshape" }),
        this._button(t.redraw, null, () => { this.takeTool("lasso"); this.redrawing = thing.id; this.refresh(); }, { pressed: !!this.redrawing }),
        this._button(t.fill_holes, null, () => this.emit("fill_holes", { object_id: thing.id }), { disabled: !thing.rings.length }),
        this._button(t.drop_crumbs, null, () => this.emit("drop_crumbs", { object_id: thing.id }), { disabled: !thing.rings.length })));
  }

  _viewOptions() {
    const t = this.text.view_options, o = this.options;
    const slider = (name, least, most, stepBy) => h("label", {}, t[name],
      h("input", { type: "range", min: least, max: most, step: stepBy, value: o[name], oninput: (e) => {
        this.options[name] = Number(e.target.value); this._remember();
        if (name === "contrast") { clearTimeout(this.later); this.later = setTimeout(() => this._loadImages(), 150); }
        this.redraw();
      } }));
    const tick = (name) => h("label", { class: "tick" }, h("input", { type: "checkbox", checked: !!o[name], onchange: (e) => this._option(name, e.target.checked) }), t[name]);
    return h("div", { class: "options" }, tick("bright"), slider("outline", 0, 1, 0.05), slider("contrast", 0.5, 4, 0.1),
      h("label", {}, t.channel, h("select", { onchange: (e) => { this._option("channel", e.target.value); this._loadImages(); } },
        [["", t.channel_of_class], ...this.desk.channels.map((c) => [c.name, c.name])]
          .map(([value, name]) => h("option", { value, selected: value === o.channel }, name)))),
      h("label", {}, t.tint, h("select", { onchange: (e) => this._option("tint", e.target.value) },
        Object.entries(this.text.tints).map(([value, name]) => h("option", { value, selected: value === o.tint }, name)))),
      slider("opacity", 0, 1, 0.05), tick("fill"), tick("smooth"),
      h("a", { href: `?surface=simple_canvas&patch=${this.assignmentId}`, target: "_self" }, t.simple));
  }

  _showFoot() {
    if (!this.desk) { this.foot.replaceChildren(); return; }
    const t = this.text, off = this.readOnly;
    if (this.desk.submitted) {
      const answers = this.desk.classes.map((c) => `${c.name}: ${t.said[this.desk.class_states[c.id]]
        ?? t.kept.replace("{n}", this.things().filter((x) => x.class_id === c.id && x.state === "accepted").length)}`);
      this.foot.replaceChildren(h("span", {}, `${t.handed_in} ${answers.join(", ")}.`),
        this._button(t.reopen, null, () => this.emit("reopen")), h("span", { class: "stretch" }), this._patchChooser(),
        this._button(t.next_patch, "N", () => this.nextPatch(), { kind: "primary" }));
      return;
    }
    const classes = this.desk.classes.map((c) => {
      const kept = this.things().filter((x) => x.class_id === c.id && x.state === "accepted").length;
      const live = this.things().some((x) => x.class_id === c.id && x.state !== "rejected");
      const said = this.desk.class_states[c.id];
      const say = (what, label) => this._button(label, null,
        () => this.emit(said === what ? "unsay" : "say", { class_id: c.id, ...(said === what ? {} : { what }) }),
        { pressed: said === what, disabled: off || (what === "nothing_here" && live && said !== what), name: `${what} ${c.id}`,
          title: t.say_titles[what].replace("{name}", c.name) });
      return h("span", { class: "group" }, h("span", { class: "class-state" }, h("i", { style: { background: c.colour } }, c.letter),
        h("b", {}, c.name), t.said[said] ?? t.kept.replace("{n}", kept)), say("nothing_here", t.none_here), say("unsure", t.unsure));
    });
    this.foot.replaceChildren(...classes,
      this._button(t.skip, null, () => this._ask("skip"), { disabled: off, title: t.skip_hint }),
      this._button(t.comment, null, () => this._ask("comment")),
      this._button(t.pause, null, () => this.setPaused(true)),
      h("span", { class: "stretch" }),
      this._patchChooser(),
      this._button(t.hand_in, "N", () => this.handIn(), { kind: "primary", disabled: off }));
  }

  _patchChooser() {
    return h("select", { "aria-label": this.text.patch, onchange: (e) => this.goTo(Number(e.target.value)) },
      this.desk.queue.map((row) => h("option",
        { value: row.id, selected: row.id === this.assignmentId, disabled: row.state === "held" },
        `${row.patch} · ${this.text.queue[row.state] ?? row.state}`)));
  }

  _ask(kind) {
    this.asking = this.asking === kind ? null : kind;
    this.refresh();
  }

  _showCover() {
    const t = this.text;
    const close = () => { this.help = this.asking = null; this.refresh(); this.canvas.focus(); };
    let content = null;
    const held = this.finished && this.desk ? this.desk.queue.filter((row) => row.state === "held").length : 0;
    if (this.finished) {
      content = h("div", { class: "sheet" }, h("h3", {}, held ? t.held : t.all_done),
        h("p", {}, held ? t.held_more.replace("{n}", held) : t.all_done_more), h("div", { class: "actions" },
          this._button(t.look_again, null, () => { this.finished = false; this.refresh(); }, { kind: "primary" })));
    } else if (this.reminder && this.desk) content = this._reminderSheet();
    else if (this.paused) {
      content = h("div", { class: "sheet" }, h("h3", {}, t.paused), this._button(t.resume, null, () => this.setPaused(false), { kind: "primary" }));
    } else if (this.idle) {
      content = h("div", { class: "sheet" }, h("h3", {}, t.still_there), h("p", {}, t.still_there_more),
        this._button(t.here_i_am, null, () => this._awake(), { kind: "primary" }));
    } else if (this.asking === "comment" && this.desk) {
      const text = h("textarea", { rows: 4, maxlength: 1000, "aria-label": t.comment });
      content = h("div", { class: "sheet" }, h("h3", {}, t.comment), text, h("div", { class: "actions" },
        this._button(t.save, null, () => { if (text.value.trim()) this.emit("comment", { text: text.value.trim() }); close(); }, { kind: "primary" }),
        this._button(t.cancel, null, close)));
    } else if (this.asking === "skip" && this.desk) {
      const which = h("select", {}, this.desk.classes.map((c) => h("option", { value: c.id }, c.name)));
      const why = h("select", {}, t.skip_reasons.map((reason) => h("option", { value: reason }, reason)));
      const more = h("input", { type: "text", maxlength: 300, placeholder: t.in_your_words });
      content = h("div", { class: "sheet" }, h("h3", {}, t.skip_title), h("label", {}, t.skip_which, which), h("label", {}, t.skip_why, why), more,
        h("div", { class: "actions" }, this._button(t.skip_do, null, () => {
          const words = more.value.trim();
          this.emit("skip", { class_id: Number(which.value), reason: words ? `${why.value}: ${words}` : why.value });
          close();
        }, { kind: "primary" }), this._button(t.cancel, null, close)));
    } else if (this.help && this.desk) content = this._helpSheet(close);
    if (this.coverKey === this._coverKey()) return;  // what is being typed stays
    this.coverKey = this._coverKey();
    this.cover.hidden = !content;
    this.cover.replaceChildren(...(content ? [content] : []));
    content?.querySelector("textarea, select, button")?.focus({ preventScroll: true });
  }

  _coverKey() { return JSON.stringify([this.finished, this.paused, this.idle, this.asking, this.help, !!this.desk,
    this.reminder?.id, (this.help || this.reminder) && this.cards]); }

  _reminderSheet() {
    const t = this.text.reminder;
    const made = Object.entries(this.reminder.mistakes).sort((a, b) => b[1] - a[1]);
    return h("div", { class: `sheet wide ${this._hasMarker() ? "" : "stain-only"}` },
      h("h3", {}, t.title), h("p", {}, t.more),
      h("ul", { class: "mistakes" }, made.map(([kind, n]) => h("li", {}, t[kind].replace("{n}", n)))),
      ...this._pictures(),
      h("div", { class: "actions" }, this._button(t.go_on, null, () => this._dismissReminder(), { kind: "primary" })));
  }

  // What good and bad look like: simulated pictures in a simulated study, else cards from its own gold.
  _pictures() {
    if (!this.examples.length) return this._cardPictures();
    const t = this.text, withMarker = this._hasMarker();
    const row = (good) => h("div", { class: "pictures" }, this.examples.filter((e) => e.good === good && (withMarker || !e.needs_marker))
      .map((e) => h("figure", {}, h("img", { src: `/api/guide/${e.name}.png`, alt: "" }), h("figcaption", {}, t.examples[e.name]))));
    return [
      h("h4", {}, t.examples_say.good, h("span", {}, t.examples_say[withMarker ? "simulated" : "simulated_stain"])), row(true),
      h("h4", {}, t.examples_say.bad), row(false),
    ];
  }

  _cardPictures() {
    const t = this.text;
    if (!this.cards) return [h("p", {}, t.cards_wait)];
    if (!this.cards.length) return [];
    return [
      h("h4", {}, t.cards_title, h("span", {}, this._hasMarker() ? t.cards_more : t.cards_more_stain)),
      h("div", { class: "pictures cards" }, this.cards.map((card) =>
        h("figure", {}, h("img", { src: card.url, alt: "" }), h("figcaption", {}, t.cards[card.name])))),
    ];
  }

  _helpSheet(close) {
    const t = this.text;
    const keys = this._keys().filter(([key]) => key !== "Ctrl+Z");
    const held = [["Space", t.keys.pan], ["Q", t.keys.blink], ["H", t.keys.hide], [t.keys.wheel_key, t.keys.wheel]];
    const kind = this.desk.assignment.tool === "contour" ? "contour" : "box";
    const suggested = this.desk.assignment.guidance === "suggestion";
    const steps = t.steps[suggested ? `${kind}_suggested` : this._hasMarker() ? kind : `${kind}_plain`];
    const shown = (key) => (key === "A" ? "Shift A" : key.replace("Ctrl+z", "Ctrl Z").replace("Ctrl+y", "Ctrl Y"));
    return h("div", { class: `sheet wide ${this._hasMarker() ? "" : "stain-only"}` },
      h("h3", {}, t.help_title),
      h("ol", { class: "steps" }, steps.map((step) => h("li", {}, step)), h("li", { class: "plain" }, t.in_doubt)),
      ...this._pictures(),
      h("div", { class: "keys" }, [...keys.map(([key, name]) => [shown(key), name]), ...held]
        .map(([key, name]) => h("div", {}, h("kbd", {}, key.length === 1 ? key.toUpperCase() : key), ` ${name}`))),
      h("div", { class: "actions" }, this._button(t.close, "?", close, { kind: "primary" })));
  }
}

// ---------------------------------------------------------------- boxes by their handles

function handles([x0, y0, x1, y1]) {
  const mx = (x0 + x1) / 2, my = (y0 + y1) / 2;
  return [[x0, y0], [mx, y0], [x1, y0], [x1, my], [x1, y1], [mx, y1], [x0, y1], [x0, my]];
}

// Where a box is taken to be moved as a whole: off its lower right corner, s screen px per px of the patch.
function mover([, , x1, y1], s) { return [x1 + MOVER_OFF_PX / s, y1 + MOVER_OFF_PX / s]; }

export function resized(drag, at, size) {
  const [x0, y0, x1, y1] = drag.old, dx = at[0] - drag.from[0], dy = at[1] - drag.from[1];
  if (drag.handle < 0) {
    const left = Math.min(Math.max(dx, -x0), size[0] - x1), top = Math.min(Math.max(dy, -y0), size[1] - y1);
    return [x0 + left, y0 + top, x1 + left, y1 + top];
  }
  const [moveX0, moveY0, moveX1, moveY1] = [
    [1, 1, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 1, 1], [0, 0, 0, 1], [1, 0, 0, 1], [1, 0, 0, 0],
  ][drag.handle];
  return normalBox([x0 + dx * moveX0, y0 + dy * moveY0], [x1 + dx * moveX1, y1 + dy * moveY1], ...size);
}

function thinned(points) {
  const kept = [];
  for (const [x, y] of points) {
    const point = [Math.round(x * 20) / 20, Math.round(y * 20) / 20];
    if (!kept.length || distance(point, kept[kept.length - 1]) >= 0.2) kept.push(point);
  }
  return kept;
}

// ---------------------------------------------------------------- the component

const surfaces = new WeakMap();

// Streamlit calls this on every run of its script, with the same parentElement, and the clean-up in between.
export default function ({ data, parentElement, setStateValue }) {
  let surface = surfaces.get(parentElement);
  if (!surface) {
    const root = parentElement.querySelector(".dual-pane");
    surface = new Surface(root, data);
    surfaces.set(parentElement, surface);
  } else if (data.turn === surface.turn && data.assignment_id !== surface.assignmentId) {
    surface.goTo(data.assignment_id);  // the address has changed, as by the browser's Back
  }
  clearTimeout(surface.leaving);
  // What is told again must differ, or the page would not run.
  surface.tellPage = (patch, turn, refused) => setStateValue("patch", { patch, turn, at: refused ? Date.now() : 0 });
  return () => {
    surface.leaving = setTimeout(() => {
      surface.close();
      surfaces.delete(parentElement);
    }, 1000);
  };
}
