// The charts: uPlot drawn in the page's own colours, so that axes can be read in the dark.
"use strict";

(() => {
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  // light-dark() has to be resolved by the browser: through an element that is styled with it
  const probe = document.createElement("span");
  probe.hidden = true;
  document.body.append(probe);
  const resolved = (name) => {
    probe.style.color = `var(${name})`;
    return getComputedStyle(probe).color || colour(name);
  };

  const steps = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"], [1, ""]];
  const rate = (value) => {
    if (value == null) return "–";
    const [factor, letter] = steps.find(([least]) => Math.abs(value) >= least) ?? [1, ""];
    return `${+(value / factor).toPrecision(4)} ${letter}bit/s`;
  };
  const delay = (value) => {
    if (value == null) return "–";
    const [factor, unit] = value >= 1e9 ? [1e9, "s"] : value >= 1e6 ? [1e6, "ms"] : value >= 1e3 ? [1e3, "µs"] : [1, "ns"];
    return `${+(value / factor).toPrecision(4)} ${unit}`;
  };
  const share = (value) => (value == null ? "–" : `${+(100 * value).toPrecision(3)} %`);
  const plain = (value) => (value == null ? "–" : `${+value.toPrecision(4)}`);
  const FORMATS = { rate, delay, share, plain };

  // What a chart is drawn from; nothing while the station does not answer, which page.js says.
  async function read(source) {
    try {
      const answer = await fetch(source);
      return answer.ok ? await answer.json() : null;
    } catch {
      return null;
    }
  }

  function options(host, series, format, within, few) {
    const ink = resolved("--ink"), line = resolved("--line"), quiet = resolved("--quiet");
    const font = `12px ${getComputedStyle(document.body).fontFamily}`;
    const clock = (u, times) => {
      const days = u.scales.x.max - u.scales.x.min > 2 * 86400;
      return times.map((at) => {
        const text = new Date(at * 1000).toISOString();
        return days ? text.slice(5, 10) : u.scales.x.max - u.scales.x.min < 900 ? text.slice(11, 19) : text.slice(11, 16);
      });
    };
    const axis = { stroke: quiet, font, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 } };
    return {
      width: Math.max(280, host.clientWidth), height: 220,
      cursor: { points: { size: 7 } },
      scales: { x: { time: true, ...(within ? { range: () => within } : {}) }, y: { range: (u, low, high) => [Math.min(0, low ?? 0), (high || 1) * 1.1] } },
      axes: [{ ...axis, values: clock, space: 60 }, { ...axis, size: 84, values: (u, values) => values.map(format) }],
      series: [
        { label: document.body.dataset.time ?? "UTC", value: (u, at) => (at == null ? "–" : new Date(at * 1000).toISOString().replace("T", " ").slice(0, 19) + "Z") },
        ...series.map(([label, name]) => ({
          label, stroke: resolved(name), width: 2, points: { show: few, size: 5, fill: resolved(name) },
          value: (u, value) => format(value), spanGaps: true,
        })),
      ],
      tzDate: (at) => uPlot.tzDate(new Date(at * 1000), "UTC"),
      hooks: { ready: [(u) => { u.root.style.color = ink; }] },
    };
  }

  function draw(host, series, format, data, within) {
    host.replaceChildren();
    return new uPlot(options(host, series, format, within, data[0].length < 60), data, host);
  }

  // -- a channel's history --------------------------------------------------------------------------------------
  const channel = document.getElementById("channel-data");
  if (channel) {
    let data = JSON.parse(channel.textContent);
    const hosts = [...document.querySelectorAll("[data-series]")];
    const show = () => {
      for (const host of hosts) {
        draw(host, [[host.dataset.label, host.dataset.colour]], FORMATS[host.dataset.format], [data.at, data[host.dataset.series]], [data.since, data.until]);
      }
    };
    show();
    const renew = async () => {
      if (document.body.hasAttribute("data-paused") || document.hidden) return;
      const found = await read(channel.dataset.source);
      if (found) { data = found; show(); }
    };
    document.body.addEventListener("station-changed", renew);
    again(show);
  }

  // -- credit-zero time of Fibre Channel ports ------------------------------------------------------------------
  const ports = [...document.querySelectorAll("[data-port]")];
  if (ports.length) {
    const kept = new Map();
    let before = null;
    const opened = Date.now() / 1000, least = 120, most = 600; // seconds that the charts show
    const show = () => {
      const now = before ? before.at : opened;
      const first = Math.max(Math.min(opened, now), now - most);
      const within = [first, Math.max(now, first + least)];
      for (const host of ports) {
        const rows = (kept.get(host.dataset.port) ?? []).filter((row) => row[0] >= first);
        draw(host, [[host.dataset.label, "--in-use"]], share, [rows.map((row) => row[0]), rows.map((row) => row[1])], within);
      }
    };
    const look = async () => {
      if (document.body.hasAttribute("data-paused") || document.hidden) return;
      const now = await read("/fibre-channel/data");
      if (!now) return;
      if (before) {
        const seconds = now.at - before.at;
        for (const port of now.ports) {
          const earlier = before.ports.find((other) => other.address === port.address && other.array === port.array);
          if (!earlier || seconds <= 0) continue;
          const waited = Math.max(0, port.credit_zero_time_ps - earlier.credit_zero_time_ps) / 1e12 / seconds;
          const rows = kept.get(port.address) ?? [];
          rows.push([now.at, Math.min(1, waited)]);
          kept.set(port.address, rows.slice(-300));
        }
      }
      before = now;
      show();
    };
    look();
    show();
    setInterval(look, 2000);
    again(show);
  }

  // Drawn again where the width or the colours change.
  function again(show) {
    let waiting = 0;
    addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(show, 150); });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
  }
})();
