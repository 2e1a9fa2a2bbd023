// Replaces the page's content every few seconds without losing scroll position or selection; without JavaScript the
// page reloads itself by a meta element instead.
"use strict";

const PERIOD_MS = 3000;

async function refresh() {
  const selecting = String(window.getSelection()) !== "";
  if (document.hidden || selecting) return;
  const old = document.querySelector("main");
  try {
    const answer = await fetch("/", { cache: "no-store", signal: AbortSignal.timeout(PERIOD_MS) });
    if (!answer.ok) throw new Error(String(answer.status));
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const scrolled = [...old.querySelectorAll(".scroll")].map((each) => each.scrollLeft);
    const fresh = document.adoptNode(page.querySelector("main"));
    old.replaceWith(fresh);
    fresh.querySelectorAll(".scroll").forEach((each, i) => { each.scrollLeft = scrolled[i] || 0; });
    document.title = page.title;
    document.querySelector("#stale").hidden = true;
  } catch {
    document.querySelector("#stale").hidden = false;
  }
}

setInterval(refresh, PERIOD_MS);
