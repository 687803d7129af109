// What the pages do beyond htmx: copying, keys, pausing, focus. Without this file every page still works.
"use strict";

(() => {
  const body = document.body;

  // -- copying a command ----------------------------------------------------------------------------------------
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    const text = button.parentElement.querySelector("code").textContent;
    const status = button.closest(".sheet").querySelector("[data-copied-status]");
    try {
      await navigator.clipboard.writeText(text);
      status.textContent = body.dataset.copied;
    } catch {
      getSelection().selectAllChildren(button.parentElement.querySelector("code"));
    }
  });

  const changed = () => body.dispatchEvent(new CustomEvent("station-changed"));

  // -- live: any event of the station renews what is shown; the stream itself puts nothing into the page ------------
  document.addEventListener("htmx:sse:before:message", (event) => {
    event.preventDefault();
    changed();
  });

  // -- the station is not reached: said once, and taken back when it answers --------------------------------------------
  const trouble = document.getElementById("trouble");
  const stream = document.getElementById("stream");
  let leaving = false;
  addEventListener("pagehide", () => { leaving = true; });
  addEventListener("beforeunload", () => { leaving = true; setTimeout(() => { leaving = false; }, 2000); });
  function tell(what) {
    if (leaving) return;
    for (const one of trouble.querySelectorAll("[data-trouble]")) one.hidden = one.dataset.trouble !== what;
    trouble.hidden = !what;
  }
  const kind = (status) => (status === 401 ? "out" : status === 429 || status >= 500 ? "lost" : "gone");
  const listenAgain = () => setTimeout(() => stream?.dispatchEvent(new CustomEvent("again")), 5000);
  document.addEventListener("htmx:error", (event) => {
    tell("lost");
    if (event.target.id === "stream") listenAgain();
  });
  document.addEventListener("htmx:response:error", (event) => {
    tell(kind(event.detail.ctx.response.status));
    if (event.target.id === "stream") listenAgain();
  });
  document.addEventListener("htmx:sse:error", (event) => tell(event.detail.status ? kind(event.detail.status) : "lost"));
  document.addEventListener("htmx:sse:after:connection", () => {
    if (trouble.hidden) return;
    tell("");
    changed(); // what has been missed
  });
  document.addEventListener("htmx:after:swap", (event) => {
    // An answer that is not put in comes by here as well.
    if (event.target.id === "live" && event.detail.ctx?.response?.status < 400) tell("");
  });

  // -- pausing live updates -------------------------------------------------------------------------------------
  const paused = () => body.hasAttribute("data-paused");
  function label() {
    for (const button of document.querySelectorAll("[data-pause]")) {
      button.dataset.running ??= button.textContent;
      button.textContent = paused() ? button.dataset.resume : button.dataset.running;
      button.setAttribute("aria-pressed", String(paused()));
    }
  }
  const pause = () => {
    body.toggleAttribute("data-paused");
    label();
    if (!paused()) changed(); // what has been missed
  };
  document.addEventListener("click", (event) => { if (event.target.closest("[data-pause]")) pause(); });
  // Also what was asked for before the pause and is answered after it stays out.
  for (const step of ["htmx:before:request", "htmx:before:swap"]) {
    document.addEventListener(step, (event) => {
      if (paused() && event.target.id === "live") event.preventDefault();
    });
  }

  // -- keys -----------------------------------------------------------------------------------------------------
  const places = {
    o: "/", r: "/reserve", t: "/tables/reservations", c: "/copies", p: "/groups", a: "/alarms", w: "/what-if", e: "/events",
  };
  const keys = () => document.getElementById("keys").showModal();
  document.querySelector("[data-keys]")?.addEventListener("click", keys);
  let going = false;
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      for (const open of document.querySelectorAll("details.copy-as[open]")) {
        open.open = false;
        open.querySelector("summary").focus();
      }
      return;
    }
    const typing = event.target.closest("input, select, textarea, [contenteditable]");
    const went = going;
    going = false; // "g" counts for the key after it, however long that takes
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    if (went) {
      if (places[event.key]) { event.preventDefault(); location.assign(places[event.key]); }
    } else if (event.key === "g") {
      going = true;
    } else if (event.key === "/") {
      const filter = document.querySelector("input[type=search]");
      if (filter) { event.preventDefault(); filter.focus(); filter.select(); }
    } else if (event.key === "p") {
      pause();
    } else if (event.key === "?") {
      keys();
    }
  });

  // -- after loading, and after htmx has put something new in ------------------------------------------------------
  function settle(root) {
    for (const radio of root.querySelectorAll("[data-enables]")) {
      const group = radio.form.querySelectorAll(`input[name="${radio.name}"]`);
      const follow = () => {
        const field = document.getElementById(radio.dataset.enables);
        field.disabled = !radio.checked;
        if (radio.checked && document.activeElement === radio) field.focus();
      };
      for (const one of group) one.addEventListener("change", follow);
      follow();
    }
    label();
  }
  settle(document);
  document.addEventListener("htmx:after:swap", () => label());
  // A refusal takes the focus. An autofocus waits for the first picture of the page, for which a busy browser may take
  // longer than a reader who types at once; who has gone elsewhere meanwhile is left there.
  const refused = document.querySelector("[data-focus]");
  if (refused) refused.focus();
  else if (!location.hash && document.activeElement === body) document.querySelector("[autofocus]")?.focus();
})();
