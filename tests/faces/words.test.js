// Names that want to be more than words, in all places and languages; and a picture of each language.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { after, test } from "node:test";
import {
    CLERK_SETTINGS, HOSTILE, LANGUAGES, act, closeBrowser, lookAtAll, openWithClerk, signIn, startUsher, state, until, user,
} from "./faces.js";

after(closeBrowser);

/** The words without the marks that usher puts around a name, or takes away from it. */
const bare = (text) => text.replace(/[\u202A-\u202E\u2066-\u2069]/g, "").replace(/\s+/g, " ").trim();

test("hostile names stay words, in all places and languages", async () => {
    const usher = await startUsher({ settings: { ...CLERK_SETTINGS, APP_NAME: HOSTILE[3], USHER_RATE_LIMIT_ADDRESS: "off" } });
    try {
        for (const [number, language] of LANGUAGES.entries()) {
            // Each name is once in each place.
            const [house, project, first, last] = HOSTILE.map((_, i) => HOSTILE[(i + number) % HOSTILE.length]);
            const boss = user(`boss-${language}@example.com`);
            const ada = user(`ada-${language}@example.com`);
            await usher.tellsOf(boss, { first_name: first, last_name: last });
            const organization = await usher.organization(house);
            await usher.call("PUT", `/v1/organizations/${organization}/members/${boss.id}`, { role: "owner" });
            const project_id = randomUUID();
            await usher.call("PUT", `/v1/projects/${project_id}`, { name: project, organization_id: organization });
            await usher.tellsOf(ada);
            const fields = { email: ada.email, invited_by: boss.id, acceptance: "ask" };
            await usher.call("POST", "/v1/invites", { ...fields, project_id, role: "client" });
            const link = await usher.link(ada.email);
            await usher.call("POST", "/v1/invites", { ...fields, organization_id: organization, role: "member" });

            const wordsOnly = async (page, sentence, names) => {
                const said = bare(await page.locator(sentence).first().innerText());
                for (const name of names) assert.ok(said.includes(bare(name)), `${language}: ${name} in ${said}`);
                const made = await page.locator("#state img, #state script, usher-invites img, usher-invites script").count();
                assert.equal(made, 0, "no name becomes an element");
            };
            const { page, errors } = await openWithClerk(link, { locale: language });
            page.on("dialog", (dialog) => errors.push(dialog.message()));
            await state(page, "signed-out");
            await wordsOnly(page, "h1", [house, project, first, last]);
            assert.equal(await page.title(), HOSTILE[3]);
            await lookAtAll(page, `words-accept-${language}`);
            await signIn(page, usher, ada);
            await act(page, "accept");
            await state(page, "joined");
            await wordsOnly(page, "h1", [house, project]);
            await wordsOnly(page, "usher-invites p", [house, first, last]);
            assert.deepEqual(errors.filter((error) => !/status of 40/.test(error)), [], language);
        }
    } finally {
        await usher.stop();
    }
});

test("the accept page in five languages, light and dark, narrow and wide", async () => {
    const usher = await startUsher({ settings: { ...CLERK_SETTINGS, APP_NAME: "Acme App", APP_URL: "https://app.example.com", USHER_RATE_LIMIT_ADDRESS: "off" } });
    try {
        const boss = user("grace@example.com");
        await usher.tellsOf(boss, { first_name: "Grace", last_name: "Hopper" });
        for (const language of LANGUAGES) {
            const organization = await usher.organization("Acme Räume GmbH");
            await usher.call("PUT", `/v1/organizations/${organization}/members/${boss.id}`, { role: "owner" });
            const ada = user(`ada-${language}@example.com`);
            await usher.tellsOf(ada);
            await usher.invite(organization, ada.email, { invited_by: boss.id, acceptance: "ask" });
            const link = await usher.link(ada.email);
            await usher.invite(await usher.organization("Initech"), ada.email, { acceptance: "ask" });
            const { page } = await openWithClerk(link, { locale: language });
            await state(page, "signed-out");
            assert.equal(await page.evaluate(() => document.documentElement.lang), language);
            await lookAtAll(page, `accept-${language}-signed-out`);
            await signIn(page, usher, ada);
            await state(page, "signed-in");
            await act(page, "decline");
            await state(page, "sure");
            await lookAtAll(page, `accept-${language}-sure`);
            await act(page, "keep");
            await act(page, "accept");
            await state(page, "joined");
            await until(async () => await page.locator("usher-invites li").count() === 1, "the other invite");
            await lookAtAll(page, `accept-${language}-joined`);
        }
    } finally {
        await usher.stop();
    }
});
