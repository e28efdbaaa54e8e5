// The board: an operator finds a dead job, reads why, and repairs it; every page is looked at.

import assert from "node:assert/strict";
import { after, test } from "node:test";
import { DATABASES, closeBrowser, lookAt, open, startUsher, until } from "./faces.js";

after(closeBrowser);

const KEY = "ada-ops-key-of-more-than-32-characters";
const LOOKS = [["light", 1400], ["dark", 1400], ["light", 375], ["dark", 375]];

/** Events that can't be read, and so fail at once. */
async function failedEvents(usher, count) {
    for (let number = 0; number < count; number++) {
        const data = { id: `user_${number}`, object: "user", email_addresses: "none" };
        await usher.deliver({ type: "user.created", object: "event", data, timestamp: Date.now() });
    }
}

async function look(tab, name) {
    for (const [scheme, width] of LOOKS) {
        await tab.emulateMedia({ colorScheme: scheme });
        await tab.setViewportSize({ width, height: 800 });
        await lookAt(tab, `board-${name}-${scheme}-${width}`);
    }
    await tab.setViewportSize({ width: 1400, height: 800 });
}

for (const database of DATABASES) {
    test(`an operator finds what is dead and repairs it (${database})`, async () => {
        const settings = { USHER_OPS_KEYS: `ada:${KEY}:operate` };
        const usher = await startUsher({ postgres: database === "postgres", settings });
        try {
            await failedEvents(usher, 3);
            const { page: tab, errors, context } = await open(`${usher.adminUrl}/board/jobs?state=dead`);
            const foreign = [];
            tab.on("request", (request) => request.url().startsWith(usher.adminUrl) || foreign.push(request.url()));
            await look(tab, `${database}-sign-in`);
            await tab.getByLabel("Ops key").fill(KEY);
            await tab.keyboard.press("Enter");

            await tab.getByRole("link", { name: "Retry all that match…" }).waitFor();
            await tab.goto(`${usher.adminUrl}/board`);
            await until(() => tab.getByText("3 events have failed").isVisible(), "the page to refresh itself");
            await look(tab, `${database}-overview`);
            const weight = await tab.evaluate(() => {
                const loaded = ["resource", "navigation"].flatMap((kind) => performance.getEntriesByType(kind));
                return loaded.reduce((sum, { transferSize }) => sum + transferSize, 0);
            });
            assert.ok(weight < 100_000, `${weight} bytes`);

            await tab.getByRole("table", { name: "Queues" }).getByRole("link", { name: "3", exact: true }).click();
            await look(tab, `${database}-jobs`);
            await tab.getByRole("table").getByRole("link").first().click();
            await tab.getByText("Failed attempts").waitFor();
            await look(tab, `${database}-job`);

            await tab.goto(`${usher.adminUrl}/board/jobs?state=dead`);
            await tab.getByRole("link", { name: "Retry all that match…" }).click();
            await tab.getByRole("heading", { name: "Retry 3 jobs: 3 process-clerk-event?" }).waitFor();
            await look(tab, `${database}-question`);
            await tab.getByRole("button", { name: "Retry" }).click();
            await tab.getByRole("heading", { name: "3 jobs queued again" }).waitFor();
            await look(tab, `${database}-outcome`);

            await tab.goto(`${usher.adminUrl}/board/inbox?state=failed`);
            await until(async () => await tab.getByRole("row").count() === 4, "all to have failed again");
            await look(tab, `${database}-inbox`);
            await tab.getByRole("table").getByRole("link").first().click();
            await tab.getByRole("link", { name: "Show the payload" }).click();
            await tab.getByLabel("Payload").getByText("email_addresses").waitFor();
            await look(tab, `${database}-event`);
            await tab.goto(`${usher.adminUrl}/board/inbox?state=failed&since=1h`);
            await tab.getByRole("link", { name: "Discard all failed that match…" }).click();
            await tab.getByRole("button", { name: "Discard" }).click();
            await tab.getByRole("heading", { name: "3 events discarded" }).waitFor();
            await tab.goto(`${usher.adminUrl}/board`);
            await until(() => tab.getByText("All is well.").isVisible(), "all to be well");
            await look(tab, `${database}-well`);

            await tab.getByRole("link", { name: "Audit" }).click();
            assert.equal(await tab.getByRole("row").count(), 3, "two changes below the head");
            await look(tab, `${database}-audit`);

            await tab.getByRole("link", { name: "Queues" }).click();
            await tab.getByLabel("Reason to pause send-mail").fill("the relay is being replaced");
            await tab.keyboard.press("Enter");
            await tab.getByText("by ada: the relay is being replaced").waitFor();
            await look(tab, `${database}-queues`);
            await tab.getByRole("button", { name: "Resume send-mail" }).click();
            await tab.getByLabel("Reason to pause send-mail").waitFor();
            await tab.getByRole("link", { name: "Schedules" }).click();
            await tab.getByRole("button", { name: "Run now: retention" }).click();
            const retention = tab.getByRole("row").filter({ hasText: "retention" });
            await until(async () => !(await retention.innerText()).includes("never"), "retention to have run");
            await look(tab, `${database}-schedules`);

            // By keyboard: past everything to the content, and a page that is held stays as it is.
            await tab.goto(`${usher.adminUrl}/board/inbox`);
            await tab.keyboard.press("Tab");
            await tab.keyboard.press("Enter");
            assert.equal(await tab.evaluate(() => document.activeElement.id), "main");
            await tab.getByRole("button", { name: "Hold" }).click();
            await failedEvents(usher, 1);
            await tab.waitForTimeout(2500);
            assert.equal(await tab.getByRole("row").count(), 4, "held");
            await tab.getByRole("button", { name: "Refresh again" }).click();
            await until(async () => await tab.getByRole("row").count() === 5, "the page to go on");

            await tab.getByRole("button", { name: "Sign out" }).click();
            await tab.goto(`${usher.adminUrl}/board`);
            await tab.getByLabel("Ops key").waitFor();
            assert.deepEqual(await context.cookies(), []);
            assert.deepEqual([errors, foreign], [[], []]);
        } finally {
            await usher.stop();
        }
    });

    test(`development's link signs in and leaves no key behind (${database})`, async () => {
        const usher = await startUsher({ postgres: database === "postgres" });
        try {
            const link = await until(() => /(http:\S+#key=\S+)/.exec(usher.log.join(""))?.[1], "the link");
            const key = link.split("#key=")[1];
            const { page: tab, errors, context } = await open(`${usher.adminUrl}/board`);
            await tab.getByText("looks only").waitFor();
            const asked = [];
            context.on("request", (request) => asked.push(request.url()));
            await tab.goto(link);
            await tab.getByText("development (operate)").waitFor();
            assert.equal(tab.url(), `${usher.adminUrl}/board`);
            assert.ok(!asked.some((url) => url.includes(key)), "no address with the key is asked for");
            await tab.goBack();
            assert.ok(!tab.url().includes(key), tab.url());
            // Once more, as signed in: the key leaves the address all the same.
            await tab.goto(link);
            await until(() => !tab.url().includes("#"), "the key to leave the address");

            const acme = await usher.organization("Acme");
            const invite = await usher.invite(acme, "ada@example.com");
            await tab.goto(`${usher.adminUrl}/board/invites/${invite.id}`);
            await tab.getByText("a person who has verified this address in Clerk").waitFor();
            await look(tab, `${database}-invite`);
            assert.deepEqual(errors, []);
        } finally {
            await usher.stop();
        }
    });
}
