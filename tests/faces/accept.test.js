// The hosted accept page, in development without Clerk: usher's stand-in signs its visitors in.

import assert from "node:assert/strict";
import { after, test } from "node:test";
import { gzipSync } from "node:zlib";
import { CLERK_SETTINGS, DATABASES, act, closeBrowser, lookAt, lookAtAll, open, startApp, startUsher, state } from "./faces.js";

after(closeBrowser);

for (const database of DATABASES) {
    test(`a link leads in, and each dead end says what to do (${database})`, async () => {
        const usher = await startUsher({ postgres: database === "postgres", clerk: false });
        try {
            const acme = await usher.organization("Acme <b>&</b> Söhne");
            await usher.invite(acme, "ada@example.com");
            const link = `${usher.url}/i#${await usher.token("ada@example.com")}`;
            const { page, errors } = await open(link);
            const asked = [];
            page.on("request", (request) => asked.push(request.url()));
            await state(page, "signed-out");
            assert.equal(new URL(page.url()).hash, "", "the token is in no address");
            assert.match(await page.getByRole("heading").innerText(), /Acme <b>&<\/b> Söhne/);
            await lookAt(page, `accept-${database}-signed-out`);
            await act(page, "stranger");
            await act(page, "accept");
            await state(page, "other");
            await lookAt(page, `accept-${database}-other`);
            await act(page, "another");
            await state(page, "signed-out");
            await act(page, "invitee");
            await act(page, "decline");
            await state(page, "sure");
            await act(page, "keep");
            await act(page, "accept");
            await state(page, "joined");
            await lookAt(page, `accept-${database}-joined`);
            const { items } = await usher.call("GET", `/v1/invites?organization_id=${acme}`);
            assert.equal(items[0].status, "accepted");
            assert.ok(!asked.some((url) => url.includes(link.split("#")[1])), "no request has the token in its address");

            for (const [address, name] of [[link, "wasAccepted"], [`${usher.url}/i#forged`, "forged"], [`${usher.url}/i`, "none"]]) {
                const { page: other } = await open(address, { dark: true, width: 375 });
                await state(other, name);
                await lookAt(other, `accept-${database}-${name}`);
            }
            const { id } = await usher.invite(acme, "bob@example.com");
            const token = await usher.token("bob@example.com");
            await usher.call("POST", `/v1/invites/${id}/revoke`, {});
            const { page: revoked } = await open(`${usher.url}/i#${token}`, { locale: "de" });
            await state(revoked, "revoked");
            assert.match(await revoked.getByRole("heading").innerText(), /zurückgezogen/);
            // The browser logs each refusal: of the stranger, and while usher has not heard of the person yet.
            assert.deepEqual(errors.filter((error) => !/status of 40[39]/.test(error)), []);
        } finally {
            await usher.stop();
        }
    });
}

test("the mailbox leads to the accept page, and that to where the invite leads, or else to the app", async () => {
    const app = await startApp({ "/home": "<h1>Home</h1>", "/welcome": "<h1>Welcome</h1>" });
    const usher = await startUsher({ clerk: false, settings: { APP_URL: `${app.url}/home` } });
    try {
        const acme = await usher.organization("Acme");
        await usher.invite(acme, "ada@example.com", { redirect_url: `${app.url}/welcome` });
        await usher.token("ada@example.com");
        const { page: mailbox, errors, context } = await open(`${usher.adminUrl}/board/mailbox`);
        await mailbox.getByText("ada@example.com").waitFor();
        await lookAtAll(mailbox, "mailbox");
        await mailbox.getByRole("link", { name: /Acme/ }).click();
        const mail = mailbox.frameLocator("iframe");
        await mail.getByRole("link", { name: /accept/i }).first().waitFor();
        await lookAtAll(mailbox, "mailbox-mail");
        const opened = context.waitForEvent("page");
        await mail.getByRole("link", { name: /accept/i }).first().click();
        const page = await opened;
        await act(page, "invitee");
        await act(page, "accept");
        await state(page, "joined");
        await page.waitForURL(`${app.url}/welcome`);

        // The same link, by the mail's page itself.
        await usher.invite(acme, "bob@example.com");
        await usher.token("bob@example.com");
        await mailbox.goto(`${usher.adminUrl}/board/mailbox`);
        await mailbox.getByRole("row", { name: /bob@example.com/ }).getByRole("link").click();
        await mailbox.getByRole("link", { name: `${usher.url}/i#` }).click();
        await act(mailbox, "invitee");
        await act(mailbox, "accept");
        await mailbox.waitForURL(`${app.url}/home`);
        assert.deepEqual(errors.filter((error) => !/status of 40[49]/.test(error)), []);
    } finally {
        await usher.stop();
        await app.stop();
    }
});

// What Clerk lists, in the order of its page: https://clerk.com/docs/guides/secure/best-practices/csp-headers
const CLERKS_LIST = {
    "script-src": "https://clerk.example.com https://challenges.cloudflare.com https://*.protect.clerk.com",
    "connect-src": "https://clerk.example.com https://*.protect.clerk.com:*",
    "img-src": "https://img.clerk.com",
    "worker-src": "'self' blob:",
    "style-src": "'unsafe-inline'",
    "frame-src": "https://challenges.cloudflare.com https://*.protect.clerk.com",
};

test("only the accept page may load Clerk's script, and none may be framed", async () => {
    const usher = await startUsher({ settings: CLERK_SETTINGS });
    try {
        const page = await fetch(`${usher.url}/i`);
        const policy = (answer) => Object.fromEntries(answer.headers.get("content-security-policy").split("; ").map((directive) => {
            const [name, ...sources] = directive.split(" ");
            return [name, sources.join(" ")];
        }));
        const own = { "script-src": "'self' ", "connect-src": "'self' ", "img-src": "'self' ", "style-src": "'self' " };
        const expected = {
            "default-src": "'none'", "base-uri": "'none'", "form-action": "'self'", "frame-ancestors": "'none'",
            ...Object.fromEntries(Object.entries(CLERKS_LIST).map(([name, sources]) => [name, (own[name] ?? "") + sources])),
        };
        assert.deepEqual(policy(page), expected);
        assert.equal(page.headers.get("x-frame-options"), "DENY");
        assert.equal(page.headers.get("referrer-policy"), "no-referrer");
        for (const path of ["/", "/docs", "/openapi.json"]) {
            const other = await fetch(usher.url + path);
            assert.doesNotMatch(JSON.stringify(policy(other)), /clerk|cloudflare|unsafe/, path);
            assert.equal(policy(other)["frame-ancestors"], "'none'", path);
        }
        const signed = await fetch(`${usher.url}/i/development/sign-in`, { method: "POST" });
        assert.equal(signed.status, 404, "with Clerk there is no stand-in");
    } finally {
        await usher.stop();
    }
});

test("the accept page and the banner are light, and browsers keep them", async () => {
    const usher = await startUsher({ settings: CLERK_SETTINGS });
    try {
        let bytes = (await (await fetch(`${usher.url}/i`)).arrayBuffer()).byteLength;
        for (const file of ["accept.js", "accept.css", "clerk.js", "icon.svg", "usher.js"]) {
            const answer = await fetch(`${usher.url}/ui/${file}`);
            const again = await fetch(`${usher.url}/ui/${file}`, { headers: { "if-none-match": answer.headers.get("etag") } });
            assert.equal(again.status, 304);
            assert.equal(answer.headers.get("access-control-allow-origin"), "*");
            const text = Buffer.from(await answer.arrayBuffer());
            bytes += text.byteLength;
            if (file === "usher.js") assert.ok(gzipSync(text).byteLength <= 12_000, `${gzipSync(text).byteLength} bytes, gzipped`);
        }
        assert.ok(bytes <= 60_000, `${bytes} bytes, not compressed`);
    } finally {
        await usher.stop();
    }
});
