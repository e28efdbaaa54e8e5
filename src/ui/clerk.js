// Clerk's script on the accept page. tests/faces checks this file, and the stand-in that its tests load, against the types
// that Clerk publishes for these versions.

const CLERK_JS = "@clerk/clerk-js@6/dist/clerk.browser.js";
/** Clerk's forms; its script has none of its own. */
const CLERK_UI = "@clerk/ui@1/dist/ui.browser.js";
const LOAD_LIMIT = 15_000;

/**
 * @param {string} src
 * @param {Record<string, string>} attributes
 * @returns {Promise<void>}
 */
function loadScript(src, attributes = {}) {
    return new Promise((resolve, reject) => {
        const script = document.createElement("script");
        for (const [name, value] of Object.entries({ src, crossorigin: "anonymous", ...attributes })) script.setAttribute(name, value);
        const timer = setTimeout(() => script.dispatchEvent(new Event("error")), LOAD_LIMIT);
        script.addEventListener("load", () => (clearTimeout(timer), resolve()));
        script.addEventListener("error", () => {
            clearTimeout(timer);
            script.remove();
            reject(new Error(`${src} can't be loaded`));
        });
        document.head.append(script);
    });
}

/**
 * Loads Clerk's script and its forms from the instance's own host, and signs the page's visitor in if they were.
 *
 * @param {string} frontendApi
 * @param {string} key
 */
export async function loadClerk(frontendApi, key) {
    const host = `https://${frontendApi}/npm/`;
    await Promise.all([
        window.__internal_ClerkUICtor ?? loadScript(host + CLERK_UI),
        window.Clerk ?? loadScript(host + CLERK_JS, { "data-clerk-publishable-key": key }),
    ]);
    const { Clerk: clerk, __internal_ClerkUICtor: ClerkUI } = window;
    if (!clerk) throw new Error("Clerk's script is not what it was");
    if (!clerk.loaded) await clerk.load({ ui: { ClerkUI } });
    return clerk;
}

/**
 * Who is signed in at Clerk, and the ways to sign in.
 *
 * @param {Awaited<ReturnType<typeof loadClerk>>} clerk
 * @param {() => string | null} invited The invited address, which fills Clerk's forms.
 * @param {() => void} onSignIn Called for each new session.
 */
export function clerkSession(clerk, invited, onSignIn) {
    const here = location.href;
    const initialValues = () => ({ emailAddress: invited() ?? undefined });
    let before = clerk.session?.id;
    clerk.addListener(({ session: now }) => {
        const isNew = now && now.id !== before;
        before = now?.id;
        if (!isNew) return;
        clerk.closeSignIn();
        clerk.closeSignUp();
        onSignIn();
    });
    return {
        isSignedIn: () => Boolean(clerk.session),
        getToken: async () => clerk.session?.getToken(),
        email: () => clerk.user?.primaryEmailAddress?.emailAddress,
        /** Whether the account has the address, but has not verified it. */
        isUnverified: () => (clerk.user?.emailAddresses ?? []).some(({ emailAddress, verification }) =>
            verification.status !== "verified" && emailAddress.toLowerCase() === invited()?.toLowerCase()),
        openAccount: () => clerk.openUserProfile(),
        signOut: () => clerk.signOut({ redirectUrl: here }),
        signUp: () => clerk.openSignUp({ forceRedirectUrl: here, signInForceRedirectUrl: here, initialValues: initialValues() }),
        signIn: () => clerk.openSignIn({ forceRedirectUrl: here, signUpForceRedirectUrl: here, initialValues: initialValues() }),
    };
}
