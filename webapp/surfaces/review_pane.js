// Settling what several raters marked on a patch. One module, no build: the page mounts it, it asks the review
// routes itself, and tells the page only that something has been decided.

// None of the classes' own: these say who, those say what.
const RATER_COLOURS = ["#ff9f1c", "#7dff5a", "#ffffff", "#00e5d0", "#ff6fae", "#c9a0ff", "#b8c0c8", "#c0ff00"];
const HALO = "rgba(16, 16, 24, 0.75)";
const CONTEXT = 4.5;  // how many times a nucleus's size is shown
const SMALLEST_SIDE_PX = 56, SMALLEST_HEIGHT_PX = 330, BELOW_PX = 22;
const CLICK_PX = 4;  // of the screen: shorter drags are clicks
const SAID = {
  pick: "Taken from", consensus: "Consensus taken", edited: "Drawn anew", class: "Class changed",
  rejected: "Rejected", added: "Added",
};

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

const key = (text) => h("kbd", null, text);

function pathOf(rings) {
  const path = new Path2D();
  for (const ring of rings) {
    ring.forEach(([x, y], i) => (i ? path.lineTo(x, y) : path.moveTo(x, y)));
    path.closePath();
  }
  return path;
}

class ReviewPane {
  constructor(root, data) {
    this.root = root;
    this.deciding = new Set();  // clusters whose decision the server has not answered yet
    this.hidden = new Set();  // letters whose outlines are put away
    this.images = {};
    this.undone = [];
    this.stages = ["stain", "marker"].map((name) => {
      const canvas = h("canvas", { "aria-label": name === "stain" ? "Stained tissue" : "Marker" });
      const title = h("b", null, "");
      return { name, canvas, title, element: h("div", { class: "stage" }, canvas, title) };
    });
    this.bar = h("div", { class: "bar", role: "toolbar" });
    this.panes = h("div", { class: "panes" }, this.bar, h("div", { class: "stages" }, this.stages.map((s) => s.element)));
    this.side = h("div", { class: "side" });
    this.surface = h("div", { class: "review" }, this.panes, this.side);
    root.replaceChildren(this.surface);
    this._listen();
    this.open(data);
  }

  async open(data) {
    const same = data.patch_id === this.patchId;
    this.patchId = data.patch_id;
    this.turn = data.turn;
    this.tool = null;
    if (!same) {
      this.trouble = "";
      this.desk = this.selected = this.view = null;
      this.hidden.clear();
      this.deciding.clear();
    }
    const desk = await this._ask("");
    if (data.patch_id !== this.patchId) return;
    if (desk) {
      if (!this.desk) this.trouble = "";
      this.desk = desk;
      this._loadImages();
      if (!same || !this._cluster()) this._nextOpen();
    }
    this._show();
  }

  close() {
    for (const undo of this.undone) undo();
    this.root.replaceChildren();
  }

  // ---------------------------------------------------------- what the server knows

  async _ask(path, body) {
    const options = body === undefined ? {} : {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
    };
    try {
      const answer = await fetch(`/api/reviews/${this.patchId}${path}`, { credentials: "same-origin", ...options });
      if (answer.ok) return await answer.json();
      this.trouble = answer.status === 401 ? "You are signed out. Sign in again." : await answer.text();
    } catch {
      this.trouble = "The server does not answer. Nothing was decided; try again.";
    }
    return null;
  }

  // One at a time, in the order of the keys. `then` gets what the server says, null if it refused.
  _send(path, body, then) {
    const patch = this.patchId;
    this.sending = (this.sending ?? Promise.resolve()).then(async () => {
      if (patch !== this.patchId) return;
      const news = await this._ask(path, body);
      if (patch !== this.patchId) return;
      // A refusal may mean that somebody else has been at the patch.
      const desk = news ?? await this._ask("");
      if (patch !== this.patchId) return;
      if (desk) {
        Object.assign(this.desk, desk);
        this.tellPage({ patch, open: desk.open, at: Date.now() });
      }
      then(news);
      this._show();
    });
  }

  _decide(kind, more = {}) {
    const cluster = this._cluster();
    if (this.desk?.finished || (!cluster && kind !== "added")) return;
    this.tool = null;
    this.trouble = "";
    const id = kind === "added" ? null : cluster.id;
    const seen = id && (cluster.decision?.id ?? 0);
    this._send("/decisions", { kind, cluster_id: id, seen, ...more }, (news) => {
      this.deciding.delete(id);
      if (kind === "added" && news) this.selected = news.cluster_id;
      else if (!news && id) this._go(this.desk.clusters.find((c) => c.id === id));
      else if (!this.selected) this._nextOpen();
    });
    if (!id) return;
    this.deciding.add(id);
    if (cluster.open) this._nextOpen();  // the next key must not wait for the answer
    else this._show();
  }

  _undo() {
    if (this.desk?.finished) return;
    this.trouble = "";
    this._send("/undo", {}, (news) => {
      if (!news?.cluster_id) return;
      this.selected = this.desk.clusters.some((c) => c.id === news.cluster_id) ? news.cluster_id : null;
      this._look();
    });
  }

  _loadImages() {
    const wanted = { stain: this.desk.pas_url };
    for (const channel of this.desk.channels) wanted[channel.name] = channel.url;
    for (const [name, url] of Object.entries(wanted)) {
      if (this.images[name]?.url === url) continue;
      const image = new Image();
      image.onload = () => this._draw();
      image.src = url;
      this.images[name] = { url, image };
    }
  }

  // ---------------------------------------------------------- which nucleus

  _cluster() { return this.desk?.clusters.find((c) => c.id === this.selected) ?? null; }

  _disputed() { return this.desk.clusters.filter((c) => c.reasons.length); }

  // Those in dispute after the one in hand (step 1) or before it (-1), going round.
  _others(step) {
    const disputed = this._disputed();
    const place = disputed.findIndex((c) => c.id === this.selected);
    const from = place < 0 && step < 0 ? 0 : place;
    return disputed.map((_, i) => disputed[(from + step * (i + 1) + 2 * disputed.length) % disputed.length]);
  }

  _go(cluster) {
    this.selected = cluster?.id ?? null;
    this._look();
    this._show();
  }

  _nextOpen() { this._go(this._others(1).find((c) => this._isOpen(c))); }

  _isOpen(cluster) { return cluster.open && !this.deciding.has(cluster.id); }

  _step(step) {
    this.trouble = "";
    const others = this._others(step);
    if (others.length) this._go((step > 0 && others.find((c) => this._isOpen(c))) || others[0]);
  }

  _look() {
    const cluster = this._cluster();
    if (!cluster) { this._whole(); return; }
    const [x0, y0, x1, y1] = cluster.box;
    const side = Math.max(SMALLEST_SIDE_PX, CONTEXT * Math.max(x1 - x0, y1 - y0));
    const { width_px, height_px } = this.desk.patch;
    const { clientWidth, clientHeight } = this.stages[0].canvas;
    const least = Math.min(clientWidth, clientHeight) || 1;
    // Not beyond the patch, where that leaves the nucleus in view.
    const inside = (at, seen, length) => (seen >= length ? length / 2 : Math.min(Math.max(at, seen / 2), length - seen / 2));
    this.view = {
      x: inside((x0 + x1) / 2, (side * clientWidth) / least, width_px),
      y: inside((y0 + y1) / 2, (side * clientHeight) / least, height_px),
      side,
    };
    this.markerName = this.desk.classes.find((c) => c.id === cluster.class_id)?.marker ?? this.markerName;
  }

  _whole() {
    if (!this.desk) return;
    const { width_px, height_px } = this.desk.patch;
    this.view = { x: width_px / 2, y: height_px / 2, side: Math.max(width_px, height_px) };
  }

  _marker() {
    const names = this.desk?.channels.map((c) => c.name) ?? [];
    return names.includes(this.markerName) ? this.markerName : names[0];
  }

  _otherMarker() {
    const names = this.desk.channels.map((c) => c.name);
    this.markerName = names[(names.indexOf(this._marker()) + 1) % names.length];
    this._show();
  }

  _toggleEverybody() {
    this.everybody = !this.everybody;
    this._show();
  }

  // ---------------------------------------------------------- drawing

  _scale(canvas) { return Math.min(canvas.clientWidth, canvas.clientHeight) / this.view.side; }

  _toPatch(stage, event) {
    const box = stage.canvas.getBoundingClientRect();
    const s = this._scale(stage.canvas);
    return [this.view.x + (event.clientX - box.left - box.width / 2) / s,
      this.view.y + (event.clientY - box.top - box.height / 2) / s];
  }

  _draw() {
    if (!this.desk || !this.view) return;
    const marker = this._marker();
    for (const stage of this.stages) {
      stage.element.hidden = stage.name === "marker" && !marker;
      stage.title.textContent = stage.name === "stain" ? "Stain" : marker ?? "";
      stage.element.classList.toggle("drawing", !!this.tool);
      this._drawStage(stage, this.images[stage.name === "stain" ? "stain" : marker]?.image);
    }
  }

  _drawStage({ canvas }, image) {
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth * ratio, canvas.clientHeight * ratio].map(Math.round);
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const c = canvas.getContext("2d");
    const s = this._scale(canvas) * ratio;
    c.setTransform(1, 0, 0, 1, 0, 0);
    c.clearRect(0, 0, width, height);
    if (!s) return;
    c.setTransform(s, 0, 0, s, width / 2 - this.view.x * s, height / 2 - this.view.y * s);
    if (image?.complete && image.naturalWidth) {
      const side = Math.max(this.desk.patch.width_px, this.desk.patch.height_px);
      c.drawImage(image, 0, 0, side, side);
    }
    if (!this.hideAll) for (const cluster of this.desk.clusters) this._drawCluster(c, cluster, s / ratio);
    if (this.stroke?.length > 1) this._line(c, pathOf([this.stroke]), "#ffffff", 1.6 / (s / ratio));
  }

  _drawCluster(c, cluster, s) {
    const decision = cluster.decision;
    if (cluster.id !== this.selected) {
      const thin = 1.2 / s;
      if (this.everybody) { this._drawMembers(c, cluster, s, 0.7); return; }
      const settled = decision && !decision.rings.length ? null : decision ?? cluster;
      const colour = this._classOf((settled ?? cluster).class_id)?.colour ?? "#ffffff";
      c.globalAlpha = settled ? 0.9 : 0.45;
      this._line(c, pathOf((settled ?? cluster).rings), settled ? colour : "#9aa0a6", thin, cluster.open ? [3 / s, 2 / s] : []);
      c.globalAlpha = 1;
      if (cluster.open && this._isWide()) this._frame(c, cluster.box, s, "#ffffff", 1 / s);
      return;
    }
    this._drawMembers(c, cluster, s, 1);
    if (this.hovered === "consensus") this._line(c, pathOf(cluster.rings), "#ffffff", 2.6 / s, [4 / s, 3 / s]);
    if (decision?.rings.length && !this.hovered) {
      this._line(c, pathOf(decision.rings), this._classOf(decision.class_id)?.colour ?? "#ffffff", 3 / s);
    }
    this._frame(c, cluster.box, s, "#ffffff", 1 / s, 5);
  }

  _isWide() { return this.view.side > 0.6 * Math.max(this.desk.patch.width_px, this.desk.patch.height_px); }

  // What each rater drew, in the rater's colour.
  _drawMembers(c, cluster, s, strength) {
    const shown = cluster.members.filter((m) => !this.hidden.has(m.letter));
    for (const member of shown) this._stroke(c, pathOf(member.rings), HALO, (3.4 * strength) / s);
    // In turn along the line, so that where outlines lie on each other all are seen.
    const dash = 5 / s;
    shown.forEach((member, i) => {
      const dashes = i ? [dash, dash * (shown.length - 1)] : [];
      this._stroke(c, pathOf(member.rings), this._raterColour(member.letter), (1.9 * strength) / s, dashes, -dash * i);
    });
    const strong = cluster.id === this.selected && shown.find((m) => m.letter === this.hovered);
    if (strong) this._line(c, pathOf(strong.rings), this._raterColour(strong.letter), 3 / s);
  }

  _line(c, path, colour, width, dash = []) {
    this._stroke(c, path, HALO, width * 1.9);
    this._stroke(c, path, colour, width, dash);
  }

  _stroke(c, path, colour, width, dash = [], offset = 0) {
    Object.assign(c, { lineJoin: "round", strokeStyle: colour, lineWidth: width, lineDashOffset: offset });
    c.setLineDash(dash);
    c.stroke(path);
    c.setLineDash([]);
  }

  _frame(c, [x0, y0, x1, y1], s, colour, width, off = 3) {
    c.strokeStyle = colour;
    c.globalAlpha = 0.55;
    c.lineWidth = width;
    c.strokeRect(x0 - off / s, y0 - off / s, x1 - x0 + 2 * off / s, y1 - y0 + 2 * off / s);
    c.globalAlpha = 1;
  }

  _classOf(id) { return this.desk.classes.find((c) => c.id === id); }

  _raterColour(letter) { return RATER_COLOURS[this.desk.raters.indexOf(letter) % RATER_COLOURS.length]; }

  // ---------------------------------------------------------- what stands round the pictures

  _show() {
    this._measure();
    if (this.desk) { this._showBar(); this._showSide(); } else {
      this.bar.replaceChildren();
      this.side.replaceChildren(this.trouble ? h("div", { class: "bad", role: "alert" }, this.trouble) : "Opening ...");
    }
    this._draw();
  }

  _showBar() {
    const chips = this.desk.raters.map((letter) => h("button", {
      class: this.hidden.has(letter) ? "off" : "", "aria-pressed": String(!this.hidden.has(letter)),
      title: "Show or hide this rater's outlines",
      onclick: () => { this.hidden.has(letter) ? this.hidden.delete(letter) : this.hidden.add(letter); this._show(); },
    }, h("i", { class: "swatch", style: { background: this._raterColour(letter) } }),
    `Rater ${letter}${this.desk.own.includes(letter) ? " (you)" : ""}`));
    this.bar.replaceChildren(...chips, h("span", { class: "stretch" }),
      this.desk.channels.length > 1 && h("button", { onclick: () => this._otherMarker() }, "Marker", key("M")),
      h("button", {
        class: this.everybody ? "pressed" : "", "aria-pressed": String(!!this.everybody),
        title: "Every rater's outline of every nucleus, or only what they come to", onclick: () => this._toggleEverybody(),
      }, "All outlines", key("O")),
      h("button", { onclick: () => { this._whole(); this._draw(); } }, "Whole patch", key("W")),
      h("span", { class: "note" }, "Hide: hold ", key("H")));
    for (const child of [...this.bar.childNodes]) if (child.textContent === "false") child.remove();
  }

  _showSide() {
    const disputed = this._disputed(), open = disputed.filter((c) => c.open).length;
    const cluster = this._cluster();
    const parts = [];
    if (this.trouble) parts.push(h("div", { class: "bad", role: "alert" }, this.trouble));
    const line = disputed.length
      ? `${disputed.length - open} of ${disputed.length} in dispute decided`
      : "Nobody disagrees on this patch";
    parts.push(h("div", { class: "head", role: "status" }, line));
    const saving = this.deciding.size > 0;
    if (saving) parts.push(h("div", { class: "note" }, "Saving ..."));
    if (this.desk.finished) parts.push(h("div", { class: "done" }, `Version ${this.desk.version} is finished. Reopen the review above to change it.`));
    else if (!open && !saving) parts.push(h("div", { class: "done" }, "Nothing is in dispute any more. Finish the review above, or click on any nucleus to look at it."));
    if (cluster) parts.push(...this._card(cluster));
    else if (open) parts.push(h("div", { class: "note" }, "Click on a nucleus, or go to the next."));
    parts.push(h("div", { class: "row" },
      h("button", { onclick: () => this._step(-1), disabled: !disputed.length }, "Back", key("B")),
      h("button", { onclick: () => this._step(1), disabled: !disputed.length }, "Next", key("N")),
      !this.desk.finished && h("button", { onclick: () => this._undo() }, "Undo", key("U"))));
    if (!this.desk.finished) parts.push(this._adding());
    const top = this.side.scrollTop;
    this.side.replaceChildren(...parts);
    this.side.scrollTop = top;
  }

  _card(cluster) {
    const { decision, members } = cluster;
    const parts = [];
    if (cluster.members.length) {
      const seen = `${cluster.votes} of ${cluster.looked} who looked for it marked it`;
      const missed = cluster.missed_by.length ? `; not ${cluster.missed_by.join(", ")}` : "";
      const why = cluster.reasons.length ? cluster.reasons.join(", ") : "all are at one";
      parts.push(h("div", { class: cluster.reasons.length ? "why" : "calm" }, h("b", null, why[0].toUpperCase() + why.slice(1)), h("br"), seen + missed + "."));
    } else parts.push(h("div", { class: "calm" }, "Added by a reviewer: no rater marked it."));
    const off = this.desk.finished;
    const hover = (name) => ({
      onmouseenter: () => { this.hovered = name; this._draw(); },
      onmouseleave: () => { this.hovered = null; this._draw(); },
    });
    const chosen = (kind, letter) => decision?.kind === kind && (!letter || decision.letter === letter);
    const choices = members.map((m) => h("button", {
      class: `wide${chosen("pick", m.letter) ? " pressed" : ""}`, disabled: off, "data-choice": m.letter,
      onclick: () => this._decide("pick", { letter: m.letter }), ...hover(m.letter),
    }, key(String(this.desk.raters.indexOf(m.letter) + 1)), h("i", { class: "swatch", style: { background: this._raterColour(m.letter) } }),
    `Rater ${m.letter}: ${this._classOf(m.class_id)?.name ?? "?"}`));
    if (members.length) choices.push(h("button", {
      class: `wide${chosen("consensus") ? " pressed" : ""}`, disabled: off, "data-choice": "consensus",
      onclick: () => this._decide("consensus"), ...hover("consensus"),
    }, key("C"), h("i", { class: "swatch consensus" }), `Consensus: ${this._classOf(cluster.class_id)?.name ?? "?"}`));
    choices.push(h("button", {
      class: `wide${chosen("edited") || this.tool === "edit" ? " pressed" : ""}`, disabled: off, onclick: () => this._take("edit"),
    }, key("E"), this.tool === "edit" ? "Draw round it on the stain" : "Draw it anew"));
    choices.push(h("button", {
      class: `wide${chosen("rejected") ? " pressed" : ""}`, disabled: off, "data-choice": "reject",
      onclick: () => this._decide("rejected"),
    }, key("X"), "Reject: no such nucleus"));
    parts.push(h("div", { class: "choices" }, choices));
    const now = decision?.class_id ?? cluster.class_id;
    if (!off && this.desk.classes.length > 1) {
      parts.push(h("div", { class: "note" }, "Its class:"), h("div", { class: "row" }, this.desk.classes.map((row, i) => h("button", {
        class: now === row.id && decision?.kind !== "rejected" ? "pressed" : "", "data-class": row.name,
        onclick: () => this._decide("class", { class_id: row.id }),
      }, key(`⇧${i + 1}`), h("i", { class: "swatch", style: { background: row.colour } }), row.name))));
    }
    if (decision) {
      const what = decision.kind === "pick" && decision.letter ? `Taken from ${decision.letter}` : SAID[decision.kind];
      const name = decision.class_id ? `: ${this._classOf(decision.class_id)?.name ?? ""}` : "";
      parts.push(h("div", { class: "done" }, `${what}${name}.`));
    }
    return parts;
  }

  _adding() {
    if (this.tool !== "add") return h("button", { class: "wide", onclick: () => this._take("add") }, key("A"), "Add a nucleus that nobody marked");
    return h("div", { class: "calm" }, "Draw round the nucleus on the stain. It becomes ",
      h("span", { class: "row" }, this.desk.classes.map((row) => h("button", {
        class: this._newClass() === row.id ? "pressed" : "", onclick: () => { this.newClass = row.id; this._show(); },
      }, row.name))));
  }

  _newClass() { return this._classOf(this.newClass)?.id ?? this.desk.classes[0]?.id; }

  _take(tool) {
    if (this.desk?.finished || (tool === "edit" && !this._cluster())) return;
    this.tool = this.tool === tool ? null : tool;
    this._show();
  }

  // ---------------------------------------------------------- keys, mouse, size

  _listen() {
    const on = (target, name, work, options) => {
      target.addEventListener(name, work, options);
      this.undone.push(() => target.removeEventListener(name, work, options));
    };
    on(window, "keydown", (e) => this._key(e), true);
    on(window, "keyup", (e) => { if (e.code === "KeyH") { this.hideAll = false; this._draw(); } }, true);
    on(window, "resize", () => { this._measure(); this._draw(); });
    for (const stage of this.stages) {
      on(stage.canvas, "pointerdown", (e) => this._down(stage, e));
      on(stage.canvas, "pointermove", (e) => this._move(stage, e));
      on(stage.canvas, "pointerup", (e) => this._up(stage, e));
      on(stage.canvas, "pointercancel", () => { this.drag = null; this.stroke = null; this._draw(); });
      on(stage.canvas, "wheel", (e) => this._wheel(stage, e), { passive: false });
    }
    const watch = new ResizeObserver(() => { this._measure(); this._draw(); });
    watch.observe(this.root);
    this.undone.push(() => watch.disconnect());
  }

  _measure() {
    const top = this.surface.getBoundingClientRect().top + window.scrollY;
    const height = Math.max(SMALLEST_HEIGHT_PX, Math.floor(window.innerHeight - top - BELOW_PX));
    if (this.surface.style.height !== `${height}px`) this.surface.style.height = `${height}px`;
  }

  _key(event) {
    const target = event.composedPath()[0];
    if (event.ctrlKey || event.metaKey || event.altKey || !this.desk) return;
    if (target instanceof Element && (target.closest("input, textarea, select") || target.isContentEditable)) return;
    const digit = /^(?:Digit|Numpad)([1-9])$/.exec(event.code)?.[1];
    const work = digit ? () => this._digit(Number(digit), event.shiftKey) : {
      KeyC: () => this._cluster()?.members.length && this._decide("consensus"), KeyX: () => this._decide("rejected"),
      KeyU: () => this._undo(), KeyN: () => this._step(1), KeyB: () => this._step(-1), KeyE: () => this._take("edit"),
      KeyA: () => this._take("add"), KeyM: () => this._otherMarker(), KeyW: () => { this._whole(); this._draw(); },
      KeyO: () => this._toggleEverybody(),
      KeyH: () => { this.hideAll = true; this._draw(); },
      Escape: () => { this.tool = null; this.stroke = null; this._show(); },
    }[event.code];
    if (!work) return;
    // Streamlit has keys of its own, C among them.
    event.preventDefault();
    event.stopImmediatePropagation();
    if (!event.repeat) work();
  }

  _digit(number, shifted) {
    if (shifted) {
      const row = this.desk.classes[number - 1];
      if (row) this._decide("class", { class_id: row.id });
      return;
    }
    const letter = this.desk.raters[number - 1];
    if (this._cluster()?.members.some((m) => m.letter === letter)) this._decide("pick", { letter });
  }

  _down(stage, event) {
    if (!this.desk || !this.view) return;
    stage.canvas.setPointerCapture(event.pointerId);
    if (this.tool && event.button === 0) this.stroke = [this._toPatch(stage, event)];
    else this.drag = { x: event.clientX, y: event.clientY, view: { ...this.view }, far: false };
  }

  _move(stage, event) {
    if (this.stroke) this.stroke.push(this._toPatch(stage, event));
    else if (this.drag) {
      const [dx, dy] = [event.clientX - this.drag.x, event.clientY - this.drag.y];
      this.drag.far ||= Math.hypot(dx, dy) > CLICK_PX;
      if (this.drag.far) {
        const s = this._scale(stage.canvas);
        this.view = { ...this.drag.view, x: this.drag.view.x - dx / s, y: this.drag.view.y - dy / s };
      }
    } else return;
    this._draw();
  }

  _up(stage, event) {
    const { stroke, drag } = this;
    this.stroke = this.drag = null;
    if (stroke) {
      if (stroke.length > 4) {
        const points = stroke.map((p) => p.map((v) => Math.round(v * 10) / 10));
        if (this.tool === "add") this._decide("added", { points, class_id: this._newClass() });
        else this._decide("edited", { points });
      }
      this._show();
    } else if (drag && !drag.far) this._pick(this._toPatch(stage, event));
  }

  _pick([x, y]) {
    const inside = this.desk.clusters.filter(({ box: [x0, y0, x1, y1] }) => x >= x0 - 2 && x <= x1 + 2 && y >= y0 - 2 && y <= y1 + 2);
    const far = ({ box }) => Math.hypot((box[0] + box[2]) / 2 - x, (box[1] + box[3]) / 2 - y);
    const nearest = inside.sort((a, b) => far(a) - far(b))[0];
    if (!nearest) return;
    this.trouble = "";
    this.selected = nearest.id;
    this._look();
    this._show();
  }

  _wheel(stage, event) {
    if (!this.view) return;
    event.preventDefault();
    const at = this._toPatch(stage, event);
    const most = Math.max(this.desk.patch.width_px, this.desk.patch.height_px);
    const side = Math.min(most, Math.max(24, this.view.side * Math.exp(event.deltaY * 0.0015)));
    const grow = side / this.view.side;
    this.view = { side, x: at[0] + (this.view.x - at[0]) * grow, y: at[1] + (this.view.y - at[1]) * grow };
    this._draw();
  }
}

const panes = new WeakMap();

export default function ({ data, parentElement, setStateValue }) {
  let pane = panes.get(parentElement);
  if (!pane) {
    pane = new ReviewPane(parentElement.querySelector(".review-pane"), data);
    panes.set(parentElement, pane);
  } else if (data.turn !== pane.turn || data.patch_id !== pane.patchId) {
    pane.open(data);
  }
  clearTimeout(pane.leaving);
  pane.tellPage = (told) => setStateValue("decided", told);
  return () => {
    pane.leaving = setTimeout(() => { pane.close(); panes.delete(parentElement); }, 1000);
  };
}
