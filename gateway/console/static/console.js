// The little the pages need from a script: charts, a live run, and a confirmation that cannot be sent twice.
"use strict";

const ink = () => getComputedStyle(document.body).color;
const palette = ["#2457c5", "#c2571a", "#1a7340", "#8e3bb0", "#8a5300", "#0f7c86"];

// Times as everywhere else on the pages: UTC, 24 hours, the date where a day begins.
const two = (n) => String(n).padStart(2, "0");
const day = (at) => `${at.getUTCFullYear()}-${two(at.getUTCMonth() + 1)}-${two(at.getUTCDate())}`;
const clock = (at) => `${two(at.getUTCHours())}:${two(at.getUTCMinutes())}`;

function times(_, splits, __, ___, step) {
  let shown = "";
  return splits.map((seconds) => {
    const at = new Date(seconds * 1000);
    if (step >= 86400) return day(at);
    const text = day(at) === shown ? clock(at) : `${clock(at)}\n${day(at)}`;
    shown = day(at);
    return text;
  });
}

function moment(seconds) {
  const at = new Date(seconds * 1000);
  return `${day(at)} ${clock(at)}`;
}

function draw(node) {
  const chart = JSON.parse(node.querySelector("script").textContent);
  if (!chart.x.length) return;
  const calls = "calls" in node.dataset;
  const axis = { stroke: ink, grid: { stroke: "#8885", width: 1 }, ticks: { stroke: "#8885" } };
  const options = {
    width: node.clientWidth,
    height: 288,
    tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
    scales: { x: { time: !calls }, y: { range: chart.range || undefined } },
    axes: [calls ? axis : { ...axis, values: times, space: 70 }, { ...axis, size: 56 }],
    series: [{ label: calls ? "calls" : "UTC", value: (_, v) => (v == null ? "–" : calls ? String(v) : moment(v)) }].concat(chart.series.map((s, i) => ({
      label: s.label, stroke: palette[i % palette.length], width: s.thin ? 1 : 2, dash: s.thin ? [4, 4] : undefined,
      points: { show: chart.x.length < 60 }, spanGaps: true, value: (_, v) => (v == null ? "–" : v.toFixed(3)),
    }))),
    hooks: {
      draw: [(u) => {
        u.ctx.save();
        for (const mark of chart.marks || []) {
          const x = u.valToPos(mark.x, "x", true);
          u.ctx.strokeStyle = mark.bad ? "#b3261e" : "#1a7340";
          u.ctx.setLineDash([6, 4]);
          u.ctx.beginPath();
          u.ctx.moveTo(x, u.bbox.top);
          u.ctx.lineTo(x, u.bbox.top + u.bbox.height);
          u.ctx.stroke();
        }
        u.ctx.restore();
      }],
    },
  };
  const plot = new uPlot(options, [chart.x, ...chart.series.map((s) => s.y)], node);
  new ResizeObserver(() => plot.setSize({ width: node.clientWidth, height: 288 })).observe(node);
}

// What the events tell in figures (generations, failures, state) is taken from the page as it is now.
async function refresh() {
  const answer = await fetch(location.href);
  if (!answer.ok) return;
  const now = new DOMParser().parseFromString(await answer.text(), "text/html");
  document.querySelectorAll("[data-fresh]").forEach((old) => {
    const fresh = now.getElementById(old.id);
    if (!fresh) return;
    old.replaceWith(fresh);
    fresh.querySelectorAll(".chart").forEach(draw);
  });
}

function follow(node) {
  const list = node.querySelector("ol");
  const source = new EventSource(node.dataset.events);
  source.onmessage = (message) => {
    const event = JSON.parse(message.data);
    if (event.ended) {
      source.close();
      location.reload();
      return;
    }
    if (event.text) {
      const item = document.createElement("li");
      item.textContent = event.text;
      list.append(item);
      list.scrollTop = list.scrollHeight;
    }
    const bar = document.querySelector("progress[data-spend]");
    if (["generation", "failures"].includes(event.kind) || (event.budget && !bar)) refresh();
    if (event.budget && bar) {
      bar.max = event.budget;
      bar.value = event.spent;
    }
  };
}

document.addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll(".chart").forEach(draw);
  document.querySelectorAll("[data-events]").forEach(follow);
  document.querySelectorAll("form").forEach((form) =>
    form.addEventListener("submit", () => form.querySelectorAll("button").forEach((button) => setTimeout(() => (button.disabled = true)))));
});
