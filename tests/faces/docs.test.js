// /docs: the API by who calls, to be searched and, in development, tried.

import assert from "node:assert/strict";
import { after, test } from "node:test";
import { API_KEY, closeBrowser, lookAt, lookAtAll, open, startUsher } from "./faces.js";

after(closeBrowser);

test("a developer finds the first call and makes it", async () => {
    const usher = await startUsher();
    try {
        const { page, errors } = await open(`${usher.url}/docs`);
        const sections = page.locator("main section");
        await sections.first().waitFor();
        await lookAtAll(page, "docs", { fullPage: false });
        const groups = await page.locator("nav h2").allInnerTexts();
        assert.deepEqual(groups.map((text) => text.toLowerCase()), ["your server calls", "your pages call", "clerk calls", "who calls", "schemas"]);
        const first = sections.first();
        assert.equal(await first.locator(".route").innerText(), "PUT /v1/organizations/{id}");
        await first.getByText("With curl").click();
        await first.getByText(`-X PUT '${usher.url}/v1/organizations/`).waitFor();

        const all = await sections.count();
        await page.keyboard.press("/");
        await page.keyboard.type("RESEND mail post");
        await page.locator("#found").getByText("found").waitFor();
        const shown = page.locator("main section:visible");
        assert.ok(await shown.count() < all / 4);
        await page.getByRole("link", { name: "Send an invite's mail again" }).waitFor();
        assert.equal(await page.locator("main h2:visible", { hasText: "Clerk calls" }).count(), 0);
        await page.getByLabel("Search").fill("");
        assert.equal(await shown.count(), all);

        await first.getByText("Try it").click();
        await first.getByLabel("id", { exact: true }).fill("acme");
        await first.getByLabel("Body").fill('{"name": "<b>Acme</b>"}');
        await first.getByRole("button", { name: "Send" }).click();
        assert.equal(await first.getByRole("status").isVisible(), false, "it asks for the key first");
        await first.getByLabel("API key").fill(API_KEY);
        await first.getByRole("button", { name: "Send" }).click();
        const answer = first.getByRole("status");
        await answer.getByText("PUT /v1/organizations/acme").waitFor();
        assert.match(await answer.innerText(), /\n20[01] [\s\S]*"name": "<b>Acme<\/b>"/);
        await lookAt(page, "docs-tried", { fullPage: false });

        const list = page.locator("#listInvites");
        await list.getByText("Try it").click();
        assert.equal(await list.getByLabel("API key").inputValue(), API_KEY, "it is typed in once");
        await list.getByLabel("organization_id").fill("acme");
        await list.getByRole("button", { name: "Send" }).click();
        await list.getByRole("status").getByText('"items": []').waitFor();
        const kept = await page.evaluate(() => JSON.stringify([localStorage, sessionStorage, document.cookie, location.href]));
        assert.ok(!kept.includes(API_KEY), kept);
        await page.reload();
        await first.getByText("Try it").click();
        assert.equal(await first.getByLabel("API key").inputValue(), "", "a reload forgets it");
        assert.equal(await page.locator("#receiveClerkEvent .try").count(), 0, "Clerk alone can sign");
        assert.deepEqual(errors, []);
    } finally {
        await usher.stop();
    }
});
