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
  document.addEventListener("htmx:before:request", (event) => {
    if (paused() && event.target.id === "live") event.preventDefault();
  });

  // -- keys -----------------------------------------------------------------------------------------------------
  const places = { o: "/", r: "/reserve", t: "/tables/reservations", c: "/copies", a: "/alarms", e: "/events" };
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
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    if (going) {
      going = false;
      if (places[event.key]) { event.preventDefault(); location.assign(places[event.key]); }
    } else if (event.key === "g") {
      going = true;
      setTimeout(() => { going = false; }, 1500);
    } else if (event.key === "/") {
      const filter = document.querySelector("input[type=search]");
      if (filter) { event.preventDefault(); filter.focus(); filter.select(); }
    } else if (event.key === "p") {
      pause();
    } else if (event.key === "?") {
      document.getElementById("keys").showModal();
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
  document.querySelector("[data-focus]")?.focus();
})();
