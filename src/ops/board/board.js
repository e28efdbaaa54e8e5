// Refreshes the page every two seconds while it is seen, unless it is held. Without it the board works, too.
"use strict";

// Development's link brings a key in its fragment. It leaves the address, and so the history, before it is used.
const key = new URLSearchParams(location.hash.slice(1)).get("key");
if (key) {
    history.replaceState(null, "", location.pathname + location.search);
    const field = document.querySelector("form input[name=key]");
    if (field) {
        field.value = key;
        field.form.requestSubmit();
    }
}

const EVERY = 2000;
const main = document.querySelector("main[data-live]");
const onward = document.querySelector("form[data-continue]");

// A change of many goes on by itself while its page is open.
if (onward) setTimeout(() => onward.requestSubmit(), 200);

if (main) {
    let isHeld = false;
    const hold = document.createElement("button");
    hold.type = "button";
    const show = () => {
        hold.textContent = isHeld ? "Refresh again" : "Hold";
        hold.setAttribute("aria-pressed", String(isHeld));
    };
    hold.addEventListener("click", () => {
        isHeld = !isHeld;
        show();
    });
    show();
    document.querySelector(".session").prepend(hold);

    // What a reader types or selects must not change meanwhile.
    const isInUse = () => main.contains(document.activeElement) && document.activeElement !== main
        || String(getSelection()) !== "";
    const refresh = async () => {
        if (isHeld || document.hidden || isInUse()) return;
        const answer = await fetch(location.href, { headers: { accept: "text/html", "x-usher-refresh": "1" } });
        if (!answer.ok || answer.redirected) return;
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        const fresh = page.querySelector("main[data-live]");
        if (!fresh || isHeld || isInUse()) return;
        const before = scrolls().map((element) => element.scrollLeft);
        main.replaceChildren(...fresh.childNodes);
        scrolls().forEach((element, index) => { element.scrollLeft = before[index] ?? 0; });
    };
    const scrolls = () => [...main.querySelectorAll(".scroll")];
    const again = () => refresh().catch(() => {}).finally(() => setTimeout(again, EVERY));
    setTimeout(again, EVERY);
}
