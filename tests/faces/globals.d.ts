// What scripts leave on a page: Clerk's, and what the tests play of it.

import type { BrowserClerk, ClerkOptions } from "@clerk/shared/types";

/** The members that usher's pages use. What is not listed here can't be used by mistake. */
type Used =
    | "load" | "loaded" | "session" | "user" | "addListener" | "openSignUp" | "openSignIn" | "closeSignUp" | "closeSignIn"
    | "openUserProfile" | "signOut";

declare global {
    interface Window {
        Clerk?: Pick<BrowserClerk, Used>;
        __internal_ClerkUICtor?: NonNullable<NonNullable<ClerkOptions["ui"]>["ClerkUI"]>;
        played: unknown[];
        becomeAtClerk(visitor: import("./clerk.js").Visitor | null): void;
    }
}
