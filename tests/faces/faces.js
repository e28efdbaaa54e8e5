// What the tests of usher's pages share: usher as a process, Clerk played, a browser.
//
//     const usher = await startUsher();           // on SQLite, or on USHER_TEST_POSTGRES_URL with { postgres: true }
//     const ada = user("ada@example.com");
//     await usher.tellsOf(ada);                   // Clerk's webhook
//     usher.sessionToken(ada);                    // Clerk's session token
//     const { page } = await openWithClerk(link); // the accept page, with Clerk's script played by clerk.js
//     await signIn(page, usher, ada);             // at Clerk
//     const { page } = await open(url, { dark: true, width: 375 });
//     await lookAt(page, "name");                 // a screenshot under target/faces, and axe-core without serious findings

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createHmac, createHash, createSign, generateKeyPairSync, randomUUID } from "node:crypto";
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { DatabaseSync } from "node:sqlite";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
export const SCREENSHOTS = join(ROOT, "target/faces");
const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const ISSUER = "https://clerk.example.com";
/** Settings with which the accept page loads Clerk's script. */
export const CLERK_SETTINGS = { CLERK_PUBLISHABLE_KEY: `pk_test_${Buffer.from("clerk.example.com$").toString("base64")}` };
export const API_KEY = "test-api-key-of-more-than-32-characters";
const SIGNING_SECRET = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const KEYS = generateKeyPairSync("rsa", { modulusLength: 2048 });

/** Waits until `look` gives something, at most ten seconds. */
export async function until(look, what = "something") {
    const end = Date.now() + 10_000;
    for (;;) {
        const found = await look();
        if (found) return found;
        assert.ok(Date.now() < end, `waited in vain for ${what}`);
        await new Promise((resolve) => setTimeout(resolve, 25));
    }
}

/** The databases that the tests run on. */
export const DATABASES = process.env.USHER_TEST_POSTGRES_URL ? ["sqlite", "postgres"] : ["sqlite"];

/** A person at Clerk. Long there, so that invites wait for their answer, unless `created` says otherwise. */
export function user(email, { verified = true, created = Date.now() - 1e9 } = {}) {
    const id = `user_${createHash("sha256").update(email).digest("hex").slice(0, 20)}`;
    return { id, email, verified, created };
}

/** Starts `usher serve` in development, on a database of its own. `clerk: false` leaves Clerk to usher's stand-in. */
export async function startUsher({ postgres = false, settings = {}, clerk = true } = {}) {
    const folder = mkdtempSync(join(tmpdir(), "usher-faces-"));
    const database = postgres ? await freshPostgres() : `sqlite://${join(folder, "usher.db")}`;
    const port = await freePort();
    const pem = KEYS.publicKey.export({ type: "spki", format: "pem" });
    const played = clerk
        ? { CLERK_JWT_KEY: pem, CLERK_ISSUER: ISSUER, CLERK_WEBHOOK_SIGNING_SECRET: SIGNING_SECRET }
        : { CLERK_WEBHOOK_SIGNING_SECRET: SIGNING_SECRET };
    const log = [];
    const process_ = spawn(join(ROOT, "target/debug/usher"), ["serve"], {
        cwd: folder,
        env: {
            PATH: process.env.PATH, USHER_ENV: "development", USHER_DATABASE_URL: database,
            USHER_LISTEN: `127.0.0.1:${port}`, USHER_ADMIN_LISTEN: "127.0.0.1:0", USHER_API_KEYS: API_KEY,
            ...played, ...settings,
        },
        stdio: ["ignore", "ignore", "pipe"],
    });
    process_.stderr.setEncoding("utf8").on("data", (text) => log.push(text));
    const usher = new Usher(`http://127.0.0.1:${port}`, process_, folder, log, database);
    await until(() => {
        assert.equal(process_.exitCode, null, log.join(""));
        return fetch(`${usher.url}/openapi.json`).then((answer) => answer.ok, () => false);
    }, "usher");
    return usher;
}

class Usher {
    constructor(url, process, folder, log, database) {
        Object.assign(this, { url, process, folder, log, database });
    }

    /** Where the private listener is. */
    get adminUrl() {
        return /health on (http:\S+)\/readyz/.exec(this.log.join(""))?.[1];
    }

    async stop() {
        if (this.process.exitCode === null && this.process.signalCode === null) {
            const ended = new Promise((resolve) => this.process.once("exit", resolve));
            this.process.kill("SIGTERM");
            await ended;
        }
        rmSync(this.folder, { recursive: true, force: true });
    }

    /** Calls the API as the app, or with another bearer. */
    async call(method, path, body, bearer = API_KEY) {
        const headers = { authorization: `Bearer ${bearer}`, "content-type": "application/json" };
        const answer = await fetch(this.url + path, { method, headers, body: body && JSON.stringify(body) });
        const text = await answer.text();
        assert.ok(answer.ok, `${method} ${path}: ${answer.status} ${text}`);
        return text && JSON.parse(text);
    }

    /** A new organization's id. */
    async organization(name) {
        const id = randomUUID();
        await this.call("PUT", `/v1/organizations/${id}`, { name });
        return id;
    }

    async invite(organization, email, fields = {}) {
        return this.call("POST", "/v1/invites", { organization_id: organization, email, role: "member", ...fields });
    }

    /** Lets an invite expire, as if its time had passed. */
    async expire(id) {
        const set = "update invites set expires_at = updated_at where";
        if (this.database.startsWith("sqlite")) {
            const database = new DatabaseSync(this.database.slice("sqlite://".length));
            database.exec(`pragma busy_timeout = 5000; ${set} id = x'${id.replaceAll("-", "")}'`);
            database.close();
        } else {
            await psql(this.database, `set search_path = usher; ${set} id = '${id}'`);
        }
    }

    /** The link of the newest mail to this address. */
    async link(email) {
        return `${this.url}/i#${await this.token(email)}`;
    }

    /** The token of the newest mail to this address. */
    async token(email) {
        const outbox = join(this.folder, "var/outbox");
        return until(() => {
            const files = safeRead(outbox).filter((name) => name.endsWith(".eml")).sort();
            const mails = files.map((name) => readFileSync(join(outbox, name), "utf8"));
            const mail = mails.findLast((text) => new RegExp(`^To: .*${email}`, "im").test(text));
            return mail && /#([A-Za-z0-9_-]{60,})/.exec(mail.replace(/=\r?\n/g, "").replace(/=3D/g, "="))?.[1];
        }, `a mail to ${email}`);
    }

    /** Delivers a webhook of Clerk's about a user and waits until usher knows them. */
    async tellsOf(who, names = {}) {
        const verification = { status: who.verified ? "verified" : "unverified", strategy: "email_code" };
        const data = {
            id: who.id, object: "user", first_name: null, last_name: null, ...names, image_url: null, banned: false,
            locked: false, primary_email_address_id: "idn_1", created_at: who.created, updated_at: Date.now(),
            email_addresses: [{ id: "idn_1", object: "email_address", email_address: who.email, verification }],
        };
        await this.deliver({ type: "user.updated", object: "event", data, timestamp: Date.now() });
        await until(async () => {
            const { synced } = await this.call("GET", `/v1/users/${who.id}/invites`);
            return synced;
        }, `${who.email} to be known`);
    }

    async deliver(event) {
        const body = JSON.stringify(event);
        const id = `msg_${randomUUID()}`;
        const at = Math.floor(Date.now() / 1000);
        const key = Buffer.from(SIGNING_SECRET.slice("whsec_".length), "base64");
        const signature = createHmac("sha256", key).update(`${id}.${at}.${body}`).digest("base64");
        const headers = {
            "content-type": "application/json", "svix-id": id, "svix-timestamp": `${at}`,
            "svix-signature": `v1,${signature}`,
        };
        const answer = await fetch(`${this.url}/webhooks/clerk`, { method: "POST", headers, body });
        assert.ok(answer.ok, `${answer.status}`);
    }

    sessionToken(who, more = {}) {
        const now = Math.floor(Date.now() / 1000);
        const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
        const claims = { iss: ISSUER, sub: who.id, sid: "sess_1", iat: now, nbf: now, exp: now + 3600, sts: "active", v: 2, ...more };
        const text = `${part({ alg: "RS256", typ: "JWT" })}.${part(claims)}`;
        return `${text}.${createSign("RSA-SHA256").update(text).sign(KEYS.privateKey, "base64url")}`;
    }
}

const safeRead = (folder) => {
    try {
        return readdirSync(folder);
    } catch {
        return [];
    }
};

async function freePort() {
    const server = createServer();
    await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
    const { port } = server.address();
    await new Promise((resolve) => server.close(resolve));
    return port;
}

async function freshPostgres() {
    const name = `faces_${randomUUID().replaceAll("-", "")}`;
    const url = new URL(process.env.USHER_TEST_POSTGRES_URL);
    await psql(url.href, `create database ${name}`);
    url.pathname = `/${name}`;
    return url.href;
}

async function psql(url, statement) {
    const command = spawn("psql", [url, "-qc", statement], { stdio: "inherit" });
    const code = await new Promise((resolve) => command.once("exit", resolve));
    assert.equal(code, 0);
}

/** A page of an app: answers each path with what `paths` has for it, a text of HTML or a function. */
export async function startApp(paths) {
    const server = createServer((request, answer) => {
        const what = paths[request.url.split("?")[0]];
        if (typeof what === "function") return what(request, answer);
        answer.writeHead(what ? 200 : 404, { "content-type": "text/html; charset=utf-8" });
        answer.end(what ?? "");
    });
    await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
    const stop = () => {
        server.closeAllConnections();
        return new Promise((resolve) => server.close(resolve));
    };
    return { url: `http://127.0.0.1:${server.address().port}`, stop };
}

let browser;

/** Opens a page in a browser of its own. What it logs as an error, or throws, is kept in `errors`. */
export async function open(url, { dark = false, width = 1200, height = 800, locale = "en", reduced = false, prepare } = {}) {
    browser ??= await chromium.launch({ executablePath: process.env.USHER_TEST_CHROMIUM, args: ["--no-sandbox"] });
    const context = await browser.newContext({
        colorScheme: dark ? "dark" : "light", viewport: { width, height }, locale,
        reducedMotion: reduced ? "reduce" : "no-preference",
    });
    await prepare?.(context);
    const page = await context.newPage();
    const errors = [];
    page.on("pageerror", (error) => errors.push(String(error)));
    page.on("console", (message) => message.type() === "error" && errors.push(message.text()));
    if (url) await page.goto(url);
    return { page, context, errors };
}

/** Opens the accept page; Clerk's host answers with clerk.js. */
export async function openWithClerk(url, options = {}) {
    const script = readFileSync(new URL("clerk.js", import.meta.url), "utf8");
    const prepare = (context) => context.route(`${ISSUER}/**`, (route) => {
        const isForms = route.request().url().includes("/@clerk/ui@");
        const headers = { "access-control-allow-origin": "*" };
        const body = isForms ? "window.__internal_ClerkUICtor = class {}" : script;
        return route.fulfill({ contentType: "text/javascript", headers, body });
    });
    return open(url, { ...options, prepare });
}

/** Signs the visitor of a page in at the played Clerk; null signs out. `more` goes into the session token. */
export async function signIn(page, usher, who, more) {
    const status = who.verified ? "verified" : "unverified";
    const visitor = { id: who.id, email: who.email, status, token: usher.sessionToken(who, more) };
    await page.evaluate((visitor) => window.becomeAtClerk(visitor), visitor);
}

/** Both widths and both color schemes: a picture of each. */
export async function lookAtAll(page, name, options) {
    for (const colorScheme of ["light", "dark"]) {
        await page.emulateMedia({ colorScheme });
        for (const width of [375, 1200]) {
            await page.setViewportSize({ width, height: 800 });
            await lookAt(page, `${name}-${colorScheme}-${width}`, options);
        }
    }
}

export const LANGUAGES = ["en", "de", "es", "fr", "ja"];
/** Names that want to be more than words: markup, places in a sentence, marks that turn the direction of writing. */
export const HOSTILE = ["<img src=x onerror=alert(1)>", "{email} {who} {where}", "\u2069\u202Eevil\u2066", `"><script>alert(1)</script>`];

/** Waits for a state of the accept page. */
export const state = (page, name) => page.locator(`#state[data-state="${name}"]`).waitFor({ timeout: 10_000 });

/** Clicks one of its buttons. */
export const act = (page, name) => page.locator(`[data-action="${name}"]`).click();

export async function closeBrowser() {
    await browser?.close();
    browser = undefined;
}

/** Keeps a screenshot, and finds nothing serious with axe-core. */
export async function lookAt(page, name, { fullPage = true } = {}) {
    mkdirSync(SCREENSHOTS, { recursive: true });
    // What fades in has no contrast yet.
    await page.evaluate(() => {
        const roots = [document, ...[...document.querySelectorAll("usher-invites")].map((banner) => banner.shadowRoot)];
        return Promise.all(roots.flatMap((root) => root.getAnimations()).map(({ finished }) => finished)).then(() => {});
    });
    await page.screenshot({ path: join(SCREENSHOTS, `${name}.png`), fullPage });
    const wide = await page.evaluate(() => document.documentElement.scrollWidth > window.innerWidth);
    assert.ok(!wide, `${name} scrolls sideways`);
    // Through the debugger, so that the page's own policy does not stop it.
    const findings = await page.evaluate(`${AXE}; axe.run({ resultTypes: ["violations"] })`);
    const serious = findings.violations.filter(({ impact }) => ["serious", "critical"].includes(impact));
    assert.deepEqual(serious.map(({ id, nodes }) => [id, nodes.map((node) => node.html)]), [], name);
}
