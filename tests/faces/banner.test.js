// <usher-invites> on a page of an app.

import assert from "node:assert/strict";
import { after, test } from "node:test";
import { DATABASES, closeBrowser, lookAt, lookAtAll, open, startApp, startUsher, until, user } from "./faces.js";

after(closeBrowser);

const page = (src, attributes = "", token = "") => `<!doctype html><html lang="en" style="color-scheme: light dark"><title>App</title>
<script>window.Clerk = { session: { id: "s", getToken: async () => ${JSON.stringify(token)} }, addListener: () => () => {} }</script>
<script type="module" src="${src}/ui/usher.js"></script>
<main><h1>App</h1><usher-invites ${attributes}></usher-invites></main></html>`;

for (const database of DATABASES) {
    test(`the banner shows, accepts, declines and dismisses (${database})`, async () => {
        const paths = { "/favicon.ico": " " };
        const app = await startApp(paths);
        const usher = await startUsher({ postgres: database === "postgres", settings: { INVITE_URL: `${app.url}/invite#{token}` } });
        try {
            const ada = user("ada@example.com");
            for (const name of ["Acme", "Initech", "<img src=x onerror=alert(1)> \u202Eevil"]) {
                await usher.invite(await usher.organization(name), ada.email);
            }
            await usher.tellsOf(ada);
            paths["/"] = page(usher.url, "", usher.sessionToken(ada));
            const { page: tab, context, errors } = await open(`${app.url}/`);
            const other = await context.newPage();
            await other.goto(`${app.url}/`);
            const items = tab.locator("usher-invites li");
            await until(async () => (await items.count()) === 3, "three invites");
            assert.equal(await tab.locator("usher-invites img").count(), 0, "a name is words");
            const took = await tab.evaluate(() => performance.getEntriesByType("resource").filter(({ name }) => name.includes("/v1/me/invites")).length);
            assert.equal(took, 1, "one request");
            for (const [look, width] of [["light", 1200], ["dark", 375]]) {
                await tab.emulateMedia({ colorScheme: look });
                await tab.setViewportSize({ width, height: 800 });
                await lookAt(tab, `banner-${database}-${look}-${width}`);
            }
            const acme = tab.locator("usher-invites li", { hasText: "Acme" });
            await acme.getByRole("button", { name: "Accept" }).click();
            await until(async () => (await items.count()) === 2, "Acme to be accepted");
            assert.match(await tab.getByRole("status").innerText(), /You are now in .*Acme/);
            await until(async () => (await other.locator("usher-invites li").count()) === 2, "the other tab to hear");
            const initech = tab.locator("usher-invites li", { hasText: "Initech" });
            await initech.getByRole("button", { name: "Decline" }).click();
            await initech.getByText("Decline this invite for good?").waitFor();
            await tab.keyboard.press("Shift+Tab");
            await tab.keyboard.press("Enter");
            await until(async () => (await items.count()) === 1, "Initech to be declined");
            await items.first().getByRole("button", { name: "Not now" }).click();
            await until(async () => (await items.count()) === 0, "the last to be dismissed");
            assert.deepEqual(errors, []);
        } finally {
            await usher.stop();
            await app.stop();
        }
    });
}

test("a page that may not call is named in the log, once", async () => {
    const paths = { "/favicon.ico": " " };
    const app = await startApp(paths);
    const usher = await startUsher();
    try {
        paths["/"] = page(usher.url, "", usher.sessionToken(user("ada@example.com")));
        const { page: tab, errors } = await open(`${app.url}/`);
        await tab.reload();
        await until(() => errors.filter((error) => error.includes("CORS")).length >= 2, "the browser to refuse both");
        const named = usher.log.join("").split("\n").filter((line) => line.includes("refused by CORS"));
        assert.equal(named.length, 1, usher.log.join(""));
        assert.ok(named[0].includes(app.url) && named[0].includes("CLERK_AUTHORIZED_PARTIES"), named[0]);
    } finally {
        await usher.stop();
        await app.stop();
    }
});

const INVITE = {
    id: "0192e4a0-0000-7000-8000-000000000001", kind: "organization", organization: { name: "Acme" }, role: "member",
    invited_by: { name: "Grace Hopper" }, expires_at: "2026-12-24T12:00:00Z",
};
const answers = (items) => (_, answer) =>
    answer.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify({ items, synced: true }));

/** A page of an app that answers the banner's question itself. */
async function pageOf(usher, run) {
    const paths = { "/favicon.ico": " " };
    const app = await startApp(paths);
    const opened = async (api, { attributes = "", options = { width: 375 }, html = (text) => text } = {}) => {
        paths["/v1/me/invites"] = api;
        paths["/"] = html(page(usher.url, `src="${app.url}" ${attributes}`, "token"));
        return open(`${app.url}/`, options);
    };
    try {
        await run(opened, paths);
    } finally {
        await app.stop();
    }
}

test("<usher-invites> on its own", async (t) => {
    const usher = await startUsher();
    const items = (tab) => tab.locator("usher-invites li");
    /** The code of the next failure that the banner tells. */
    const failureOf = (tab, act) => tab.evaluate(async (act) => {
        const banner = document.querySelector("usher-invites");
        const told = new Promise((resolve) => banner.addEventListener("usher-error", ({ detail }) => resolve(detail.code), { once: true }));
        await customElements.whenDefined("usher-invites");
        if (act) banner.refresh();
        return told;
    }, act);
    try {
        for (const lang of ["en", "de", "es", "fr", "ja"]) {
            await t.test(`speaks ${lang}`, () => pageOf(usher, async (opened) => {
                const { page: tab } = await opened(answers([INVITE]), { attributes: `lang="${lang}"` });
                await items(tab).waitFor();
                await lookAtAll(tab, `banner-${lang}`);
            }));
        }

        await t.test("stays away while the server is away or answers HTML, and comes when it is back", () => pageOf(usher, async (opened, paths) => {
            for (const api of ["<h1>502 Bad Gateway</h1>", (_, answer) => answer.destroy(), answers("none"), answers(null)]) {
                const { page: tab } = await opened(api);
                assert.equal(await failureOf(tab, true), "unreachable");
                assert.equal(await items(tab).count(), 0);
                paths["/v1/me/invites"] = answers([INVITE]);
                await tab.evaluate(() => document.querySelector("usher-invites").refresh());
                await items(tab).waitFor();
            }
        }));

        await t.test("a slow server holds nothing up, and one that hangs is given up", () => pageOf(usher, async (opened, paths) => {
            const { page: tab } = await opened((request, answer) => void setTimeout(answers([INVITE]), 1500, request, answer));
            assert.equal(await items(tab).count(), 0, "it takes no room until it has something to say");
            assert.equal(await tab.locator("usher-invites").evaluate((banner) => banner.offsetHeight), 0);
            await items(tab).waitFor();
            paths["/v1/me/invites"] = () => {};
            assert.equal(await failureOf(tab, true), "unreachable");
            assert.equal(await items(tab).count(), 1, "what is known stays");
        }));

        await t.test("asks again when the page is seen again, and not while it is hidden", () => pageOf(usher, async (opened, paths) => {
            let asked = 0;
            const { page: tab } = await opened((request, answer) => (asked++, answers(asked === 1 ? [INVITE] : [])(request, answer)));
            await items(tab).waitFor();
            const become = (isHidden) => tab.evaluate((isHidden) => {
                Object.defineProperty(document, "hidden", { configurable: true, get: () => isHidden });
                document.dispatchEvent(new Event("visibilitychange"));
            }, isHidden);
            await become(true);
            assert.equal(asked, 1);
            await become(false);
            await until(async () => await items(tab).count() === 0, "the answered invite to go");
            assert.equal(asked, 2);
        }));

        await t.test("right to left, the words are at the right and the buttons at the left", () => pageOf(usher, async (opened) => {
            const hebrew = { ...INVITE, organization: { name: "בית קפה" }, invited_by: { name: "נעמה" } };
            const html = (text) => text.replace('<html lang="en"', '<html lang="he" dir="rtl"');
            const { page: tab } = await opened(answers([INVITE, { ...hebrew, id: "2" }]), { html, options: { width: 1200 } });
            await items(tab).first().waitFor();
            for (const item of await items(tab).all()) {
                const words = await item.locator("p span").boundingBox();
                const until = await item.locator("small span").boundingBox();
                const accept = await item.getByRole("button", { name: "Accept" }).boundingBox();
                const dismiss = await item.getByRole("button", { name: "Not now" }).boundingBox();
                assert.ok(accept.x + accept.width <= words.x && dismiss.x < accept.x, "as it is read");
                assert.ok(Math.abs(words.x + words.width - until.x - until.width) < 2, "both lines begin at the right");
            }
            await lookAtAll(tab, "banner-rtl");
        }));

        await t.test("moves only where motion is wanted", () => pageOf(usher, async (opened) => {
            for (const [reduced, name] of [[false, "come"], [true, "none"]]) {
                const { page: tab } = await opened(answers([INVITE]), { options: { reduced } });
                await items(tab).waitFor();
                assert.equal(await items(tab).evaluate((item) => getComputedStyle(item).animationName), name);
            }
        }));

        await t.test("by keyboard alone, and the focus goes on to the next invite", () => pageOf(usher, async (opened, paths) => {
            const others = ["2", "3"].map((id) => ({ ...INVITE, id, organization: { name: `Acme ${id}` } }));
            const { page: tab } = await opened(answers([INVITE, ...others]));
            paths[`/v1/me/invites/${INVITE.id}/dismiss`] = answers([]);
            await items(tab).first().waitFor();
            for (const key of ["Tab", "Tab", "Tab", "Enter"]) await tab.keyboard.press(key);
            await until(async () => await items(tab).count() === 2, "the first to be dismissed");
            const focused = () => tab.evaluate(() => document.querySelector("usher-invites").shadowRoot.activeElement?.textContent);
            assert.match(await focused(), /Acme 2/);
            await tab.keyboard.press("Tab");
            assert.equal(await focused(), "Accept");
        }));

        await t.test("takes its look from variables and parts", () => pageOf(usher, async (opened) => {
            const style = "<style>usher-invites { --usher-accent: rgb(0, 100, 0) } usher-invites::part(dismiss) { display: none }</style>";
            const { page: tab } = await opened(answers([INVITE]), { html: (text) => text.replace("<main>", `${style}<main>`) });
            await items(tab).waitFor();
            const accept = tab.getByRole("button", { name: "Accept" });
            assert.equal(await accept.evaluate((button) => getComputedStyle(button).backgroundColor), "rgb(0, 100, 0)");
            assert.equal(await tab.getByText("Not now").isVisible(), false);
        }));
    } finally {
        await usher.stop();
    }
});
