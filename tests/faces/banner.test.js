// <usher-invites> on a page of an app.

import assert from "node:assert/strict";
import { after, test } from "node:test";
import { DATABASES, closeBrowser, lookAt, open, startApp, startUsher, until, user } from "./faces.js";

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

test("the banner stays away while the server is away or answers HTML, and comes in each language", async () => {
    const invite = {
        id: "0192e4a0-0000-7000-8000-000000000001", kind: "organization", organization: { name: "Acme" }, role: "member",
        invited_by: { name: "Grace Hopper" }, expires_at: "2026-12-24T12:00:00Z",
    };
    const paths = {};
    const app = await startApp(paths);
    const usher = await startUsher();
    try {
        const opened = async (lang, api) => {
            paths["/v1/me/invites"] = api;
            paths["/"] = page(usher.url, `src="${app.url}" lang="${lang}" ${lang === "ja" ? 'dir="rtl"' : ""}`, "token");
            return open(`${app.url}/`, { width: 375 });
        };
        const json = (_, answer) => answer.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify({ items: [invite], synced: true }));
        for (const lang of ["en", "de", "es", "fr", "ja"]) {
            const { page: tab } = await opened(lang, json);
            await tab.locator("usher-invites li").waitFor();
            await lookAt(tab, `banner-${lang}-375`);
        }
        for (const api of ["<h1>502 Bad Gateway</h1>", (_, answer) => answer.destroy()]) {
            const { page: tab } = await opened("en", api);
            const code = await tab.evaluate(() => new Promise((resolve) => {
                const banner = document.querySelector("usher-invites");
                banner.addEventListener("usher-error", ({ detail }) => resolve(detail.code));
                customElements.whenDefined("usher-invites").then(() => banner.refresh());
            }));
            assert.equal(code, "unreachable");
            assert.equal(await tab.locator("usher-invites li").count(), 0);
        }
    } finally {
        await usher.stop();
        await app.stop();
    }
});
