// Measures how soon <usher-invites> shows after its script has come, on this machine, and prints it:
//
//     scripts/with-browser node tests/faces/measure.js [times]

import { closeBrowser, open, startApp, startUsher, user } from "./faces.js";

const times = Number(process.argv[2] ?? 20);
const paths = { "/favicon.ico": " " };
const app = await startApp(paths);
const usher = await startUsher({ settings: { INVITE_URL: `${app.url}/invite#{token}` } });
try {
    const ada = user("ada@example.com");
    for (const name of ["Acme", "Initech"]) await usher.invite(await usher.organization(name), ada.email);
    await usher.tellsOf(ada);
    paths["/"] = `<!doctype html><html lang="en"><title>App</title>
        <script>
            window.Clerk = { session: { id: "s", getToken: async () => ${JSON.stringify(usher.sessionToken(ada))} }, addListener: () => () => {} };
            addEventListener("usher-shown", () => requestAnimationFrame(() => setTimeout(() => (window.shown = performance.now()))));
        </script>
        <script type="module" src="${usher.url}/ui/usher.js"></script><usher-invites></usher-invites></html>`;
    const took = [];
    const requests = new Set();
    for (let time = 0; time < times; time++) {
        const { page, context } = await open(`${app.url}/`);
        await page.waitForFunction(() => window.shown);
        const [shown, script, asked] = await page.evaluate(() => {
            const of = (part) => performance.getEntriesByType("resource").filter(({ name }) => name.includes(part));
            return [window.shown, of("/ui/usher.js")[0].responseEnd, of("/v1/").length];
        });
        took.push(shown - script);
        requests.add(asked);
        await context.close();
    }
    took.sort((a, b) => a - b);
    const at = (part) => took[Math.min(took.length - 1, Math.floor(took.length * part))].toFixed(0);
    console.log(`banner painted after its script: median ${at(0.5)} ms, 95 % ${at(0.95)} ms, worst ${at(1)} ms, of ${times} loads;`,
        `requests: ${[...requests].join(" or ")}`);
} finally {
    await usher.stop();
    await app.stop();
    await closeBrowser();
}
