// Clerk's script, played: what src/ui/clerk.js uses of it, for tests that answer its address with this file. It shows no
// forms; it notes in `window.played` what it was asked for, and a test signs its visitor in by `window.becomeAtClerk`.
//
// The types are Clerk's, so what is played here is what Clerk has: `tsc --project tests/faces` compares.

/**
 * @typedef {import("@clerk/shared/types").BrowserClerk} Clerk
 * @typedef {import("@clerk/shared/types").Resources} Resources
 * @typedef {import("@clerk/shared/types").SessionResource} Session
 * @typedef {import("@clerk/shared/types").UserResource} User
 * @typedef {import("@clerk/shared/types").EmailAddressResource} Address
 * @typedef {import("@clerk/shared/types").VerificationResource} Verification
 * @typedef {{ id: string, token: string, email: string, status?: Verification["status"] }} Visitor
 */

(() => {
    const STORED = "played-clerk";
    /** @type {Visitor | null} */
    let visitor = null;
    /** @type {Array<(resources: Pick<Resources, "session">) => void>} */
    const listeners = [];

    /** @param {Visitor} is */
    const address = (is) => {
        /** @type {Pick<Verification, "status">} */
        const verification = { status: is.status ?? "verified" };
        /** @type {Pick<Address, "emailAddress"> & { verification: Pick<Verification, "status"> }} */
        const address = { emailAddress: is.email, verification };
        return address;
    };

    /** @satisfies {Record<keyof NonNullable<Window["Clerk"]>, unknown>} */
    const clerk = {
        loaded: false,
        /** @type {Pick<Session, "id" | "getToken"> | null} */
        session: null,
        /** @type {{ primaryEmailAddress: ReturnType<typeof address>, emailAddresses: Array<ReturnType<typeof address>> } | null} */
        user: null,
        /** @type {Clerk["load"]} */
        load: async (options) => {
            window.played.push({ load: Boolean(options?.ui?.ClerkUI) });
            clerk.loaded = true;
            become(JSON.parse(sessionStorage.getItem(STORED) ?? "null"));
        },
        /** @type {(listener: (resources: Pick<Resources, "session">) => void) => import("@clerk/shared/types").UnsubscribeCallback} */
        addListener: (listener) => {
            listeners.push(listener);
            return () => listeners.splice(listeners.indexOf(listener), 1);
        },
        /** @type {Clerk["openSignUp"]} */
        openSignUp: (props) => void window.played.push({ openSignUp: props }),
        /** @type {Clerk["openSignIn"]} */
        openSignIn: (props) => void window.played.push({ openSignIn: props }),
        /** @type {Clerk["closeSignUp"]} */
        closeSignUp: () => {},
        /** @type {Clerk["closeSignIn"]} */
        closeSignIn: () => {},
        /** @type {Clerk["openUserProfile"]} */
        openUserProfile: () => void window.played.push({ openUserProfile: true }),
        /** @type {(options?: import("@clerk/shared/types").SignOutOptions) => Promise<void>} */
        signOut: async (options) => {
            become(null);
            // As Clerk does after signing out.
            location.assign(options?.redirectUrl ?? "/");
        },
    };

    /** @param {Visitor | null} is */
    function become(is) {
        visitor = is;
        sessionStorage.setItem(STORED, JSON.stringify(is));
        clerk.session = is && { id: `sess_${is.id}`, getToken: async () => visitor?.token ?? null };
        clerk.user = is && { primaryEmailAddress: address(is), emailAddresses: [address(is)] };
        for (const listener of listeners) listener({ session: /** @type {Resources["session"]} */ (clerk.session) });
    }

    window.played ??= [];
    window.becomeAtClerk = become;
    Object.assign(window, { Clerk: clerk });
})();
