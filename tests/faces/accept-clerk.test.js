// The accept page with Clerk's script: each state, on both databases. Clerk's script is played by clerk.js.

import assert from "node:assert/strict";
import { after, test } from "node:test";
import { CLERK_SETTINGS, DATABASES, act, closeBrowser, lookAt, openWithClerk, signIn, startUsher, state, until, user } from "./faces.js";

after(closeBrowser);

const heading = (page) => page.getByRole("heading").innerText();
const played = (page) => page.evaluate(() => window.played);
/** What a browser logs of answers that the page expects. */
const unexpected = (errors) => errors.filter((error) => !/status of 4\d\d/.test(error));

/** An invite, opened by its link. */
async function invited(usher, email, { fields = {}, options = {} } = {}) {
    const organization = await usher.organization(`House of ${email}`);
    const { id } = await usher.invite(organization, email, { acceptance: "ask", ...fields });
    const link = await usher.link(email);
    return { id, organization, link, who: user(email), ...await openWithClerk(link, options) };
}

const STORIES = {
    "a newcomer signs up with the address filled in, waits for the webhook, and joins": async (usher, name) => {
        const { page, who, link, errors } = await invited(usher, "ada@example.com");
        await state(page, "signed-out");
        await lookAt(page, name("signed-out"));
        await act(page, "signUp");
        await act(page, "signIn");
        const [load, { openSignUp }, { openSignIn }] = await played(page);
        assert.deepEqual(load, { load: true }, "Clerk's forms are loaded, too");
        const here = `${usher.url}/i`;
        assert.deepEqual(openSignUp, {
            forceRedirectUrl: here, signInForceRedirectUrl: here, initialValues: { emailAddress: "ada@example.com" },
        }, "Clerk comes back without the token, which the tab keeps");
        assert.deepEqual(openSignIn.initialValues, { emailAddress: "ada@example.com" });
        await signIn(page, usher, who);
        await state(page, "signed-in");
        await act(page, "accept");
        await state(page, "wait");
        await usher.tellsOf(who);
        await state(page, "joined");
        assert.match(await heading(page), /You are now in .*House of ada/);
        await page.goto(link);
        await page.reload();
        await state(page, "wasAccepted");
        await lookAt(page, name("accepted-already"));
        assert.deepEqual(unexpected(errors), []);
    },

    "an account that usher hears of too late is told what to do after half a minute": async (usher, name) => {
        const { page, who } = await invited(usher, "bob@example.com");
        await state(page, "signed-out");
        await page.clock.install();
        await signIn(page, usher, who);
        await act(page, "accept");
        const start = await page.evaluate(() => Date.now());
        await until(async () => {
            await page.clock.runFor(1000);
            return page.locator('#state[data-state="setUp"]').isVisible();
        }, "the page to give up");
        const waited = await page.evaluate((start) => Date.now() - start, start);
        assert.ok(waited >= 30_000 && waited < 60_000, `${waited} ms on the page's clock`);
        await lookAt(page, name("set-up"));
        await usher.tellsOf(who);
        await act(page, "again");
        await state(page, "joined");
    },

    "who is signed in with another account changes it with one click": async (usher, name) => {
        const { page, who } = await invited(usher, "carol@example.com");
        const eve = user("eve@example.com");
        await usher.tellsOf(eve);
        await usher.tellsOf(who);
        await state(page, "signed-out");
        await signIn(page, usher, eve);
        for (const [click, again] of [["accept", "another"], ["decline", "decline"]]) {
            await state(page, "signed-in");
            await act(page, click);
            if (again === "decline") await act(page, again);
            await state(page, "other");
            assert.match(await heading(page), /c\*\*\*@example\.com/);
            await page.getByText("eve@example.com").waitFor();
            if (again === "decline") break;
            await lookAt(page, name("other-account"));
            await act(page, again);
            await state(page, "signed-out");
            assert.equal(page.url(), `${usher.url}/i`);
            await signIn(page, usher, eve);
        }
        await act(page, "another");
        await state(page, "signed-out");
        await signIn(page, usher, who);
        await act(page, "accept");
        await state(page, "joined");
    },

    "an address that is not verified yet is verified first": async (usher, name) => {
        const { page, who } = await invited(usher, "dan@example.com");
        const unverified = { ...who, verified: false };
        await usher.tellsOf(unverified);
        await state(page, "signed-out");
        await signIn(page, usher, unverified);
        await act(page, "accept");
        await state(page, "verify");
        await lookAt(page, name("not-verified"));
        await act(page, "openAccount");
        assert.deepEqual((await played(page)).at(-1), { openUserProfile: true });
        await usher.tellsOf(who);
        await act(page, "again");
        await state(page, "signed-in");
        await act(page, "accept");
        await state(page, "joined");
    },

    "support that acts for a person answers nothing": async (usher, name) => {
        const { page, who, id } = await invited(usher, "erin@example.com");
        await usher.tellsOf(who);
        await state(page, "signed-out");
        await signIn(page, usher, who, { act: { sub: "user_support" } });
        await act(page, "accept");
        await state(page, "impersonated");
        await lookAt(page, name("impersonated"));
        assert.equal((await usher.call("GET", `/v1/invites/${id}`)).status, "pending");
    },

    "an invite that ends while its page is open says so, and so does its link": async (usher, name) => {
        const ends = {
            expired: (id) => usher.expire(id),
            revoked: (id) => usher.call("POST", `/v1/invites/${id}/revoke`, {}),
            wasDeclined: (id, who) => usher.call("POST", `/v1/me/invites/${id}/decline`, {}, usher.sessionToken(who)),
            wasAccepted: (id, who) => usher.call("POST", `/v1/me/invites/${id}/accept`, {}, usher.sessionToken(who)),
        };
        for (const [end, by] of Object.entries(ends)) {
            const { page, who, link, id } = await invited(usher, `${end.toLowerCase()}@example.com`);
            await usher.tellsOf(who);
            await state(page, "signed-out");
            await signIn(page, usher, who);
            await state(page, "signed-in");
            await by(id, who);
            // Who has accepted already gets the invite, so declining is what can't be done any more.
            await act(page, end === "wasAccepted" ? "decline" : "accept");
            if (end === "wasAccepted") await act(page, "decline");
            await state(page, end);
            await lookAt(page, name(`${end}-meanwhile`));
            const { page: later } = await openWithClerk(link);
            await state(later, end);
            await lookAt(later, name(end));
            assert.equal(await later.getByText("ask for a new invite").count(), end === "wasAccepted" ? 0 : 1);
        }
    },

    "declining asks once": async (usher, name) => {
        const { page, who, id, link } = await invited(usher, "frank@example.com");
        await usher.tellsOf(who);
        await state(page, "signed-out");
        await signIn(page, usher, who);
        await act(page, "decline");
        await state(page, "sure");
        await lookAt(page, name("sure"));
        await act(page, "keep");
        await act(page, "decline");
        assert.equal((await usher.call("GET", `/v1/invites/${id}`)).status, "pending");
        await act(page, "decline");
        await state(page, "declined");
        await lookAt(page, name("declined"));
        await page.goto(link);
        await page.reload();
        await state(page, "wasDeclined");
    },

    "an invite whose inviter lost the right can't be accepted": async (usher, name) => {
        const boss = user("boss@example.com");
        await usher.tellsOf(boss);
        const organization = await usher.organization("Bossy");
        await usher.call("PUT", `/v1/organizations/${organization}/members/${boss.id}`, { role: "owner" });
        const who = user("gina@example.com");
        await usher.invite(organization, who.email, { acceptance: "ask", invited_by: boss.id });
        await usher.tellsOf(who);
        const { page } = await openWithClerk(await usher.link(who.email));
        await state(page, "signed-out");
        await signIn(page, usher, who);
        await usher.call("DELETE", `/v1/organizations/${organization}/members/${boss.id}?force=true`);
        await act(page, "accept");
        await state(page, "rights");
        await lookAt(page, name("rights"));
    },

    "forged links and links without a token": async (usher, name) => {
        for (const [fragment, expected] of [["#forged", "forged"], ["", "none"], ["#/factor-one", "none"]]) {
            const { page } = await openWithClerk(`${usher.url}/i${fragment}`);
            await state(page, expected);
            await lookAt(page, name(expected));
        }
    },

    "offline it says so, and goes on by itself": async (usher, name) => {
        const { page, who, context } = await invited(usher, "henry@example.com");
        await usher.tellsOf(who);
        await state(page, "signed-out");
        await signIn(page, usher, who);
        await context.setOffline(true);
        await act(page, "accept");
        await state(page, "offline");
        await lookAt(page, name("offline"));
        await context.setOffline(false);
        await state(page, "signed-in");
        await act(page, "accept");
        await state(page, "joined");
    },

    "without Clerk's script it can be tried again": async (usher, name) => {
        await usher.invite(await usher.organization("Acme"), "iris@example.com");
        const { page, context } = await openWithClerk(null);
        const away = (route) => route.abort();
        await context.route("**/@clerk/ui@*/**", away);
        await page.goto(await usher.link("iris@example.com"));
        await state(page, "away");
        await lookAt(page, name("clerk-away"));
        await context.unroute("**/@clerk/ui@*/**", away);
        await act(page, "again");
        await state(page, "signed-out");
    },

    "after accepting, the other invites of the same person": async (usher, name) => {
        const { page, who } = await invited(usher, "jane@example.com");
        await usher.invite(await usher.organization("Initech"), who.email, { acceptance: "ask" });
        await usher.tellsOf(who);
        await state(page, "signed-out");
        await signIn(page, usher, who);
        await act(page, "accept");
        await state(page, "joined");
        const other = page.locator("usher-invites li");
        await other.getByText("Initech").waitFor();
        await page.getByText("You have more invites:").waitFor();
        await lookAt(page, name("more"));
        await other.getByRole("button", { name: "Accept" }).click();
        await until(async () => await other.count() === 0, "the other invite to be accepted");
        const { items } = await usher.call("GET", `/v1/users/${who.id}/memberships`);
        assert.equal(items.length, 2);
    },

    "by keyboard alone": async (usher) => {
        const { page, who } = await invited(usher, "kim@example.com");
        await usher.tellsOf(who);
        await state(page, "signed-out");
        await page.keyboard.press("Tab");
        await page.keyboard.press("Enter");
        await until(async () => (await played(page)).at(-1).openSignUp, "sign-up to be opened");
        await signIn(page, usher, who);
        await state(page, "signed-in");
        for (const key of ["Tab", "Tab", "Enter", "Tab", "Tab", "Enter", "Tab"]) await page.keyboard.press(key);
        const outline = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
        assert.equal(outline, "solid", "what has the focus is seen");
        await page.keyboard.press("Space");
        await state(page, "joined");
        const focused = await page.evaluate(() => document.activeElement.tagName);
        assert.equal(focused, "H1", "a screen reader goes on where the page does");
    },
};

for (const database of DATABASES) {
    test(`the accept page with Clerk (${database})`, async (t) => {
        const postgres = database === "postgres";
        const usher = await startUsher({ postgres, settings: { ...CLERK_SETTINGS, USHER_RATE_LIMIT_ADDRESS: "off" } });
        try {
            for (const [story, run] of Object.entries(STORIES)) {
                await t.test(story, () => run(usher, (state) => `accept-${database}-clerk-${state}`));
            }
            await t.test("while usher is away it says so", async () => {
                const { page, who } = await invited(usher, "lara@example.com");
                await usher.tellsOf(who);
                await state(page, "signed-out");
                await signIn(page, usher, who);
                await usher.stop();
                await act(page, "accept");
                await state(page, "away");
                await act(page, "again");
                await state(page, "away");
                await lookAt(page, `accept-${database}-clerk-away`);
            });
        } finally {
            await usher.stop();
        }
    });
}

test("after accepting, on to the app", async () => {
    const usher = await startUsher({ settings: { ...CLERK_SETTINGS, APP_URL: "https://app.example.com/home", APP_NAME: "Acme App" } });
    try {
        const { page, who, context } = await invited(usher, "ada@example.com");
        await context.route("https://app.example.com/**", (route) => route.fulfill({ contentType: "text/html", body: "<h1>Home</h1>" }));
        await usher.tellsOf(who);
        await state(page, "signed-out");
        await signIn(page, usher, who);
        await act(page, "accept");
        await state(page, "joined");
        await page.getByRole("link", { name: /Continue to .Acme App/ }).waitFor();
        await page.getByRole("heading", { name: "Home" }).waitFor();
        assert.equal(page.url(), "https://app.example.com/home");
        assert.equal(await page.evaluate(() => document.referrer), "");
    } finally {
        await usher.stop();
    }
});
