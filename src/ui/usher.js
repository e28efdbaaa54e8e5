// <usher-invites>: the banner with the invites of the signed-in person.
//
//     <script type="module" src="https://invites.example.com/ui/usher.js"></script>
//     <usher-invites></usher-invites>
//
// The session token comes from Clerk's script (window.Clerk) or from a callback: element.getToken = async () => "…".
// Names are written as text only, never as HTML.

const HERE = new URL("..", import.meta.url).href.replace(/\/$/, "");
const TIME_LIMIT = 12_000;
const CHANNEL = "usher-invites";

const TEXTS = {
    en: {
        region: "Invites", invite: "{who} invites you to {where} as {role}.", inviteBare: "You are invited to {where} as {role}.",
        in: "{project} in {organization}", until: "Valid until {date}", accept: "Accept", decline: "Decline", dismiss: "Not now",
        sure: "Decline this invite for good?", keep: "Keep", accepted: "You are now in {where}.", declined: "Invite to {where} declined.",
        gone: "The invite to {where} is no longer valid.", rights: "The inviter may no longer give this role. Ask for a new invite.",
        impersonated: "You act for another person, so you can't answer their invites.", again: "This did not work. Please try again.",
        roles: { member: "member", admin: "admin", owner: "owner", support: "support", client: "client", editor: "editor" },
    },
    de: {
        region: "Einladungen", invite: "{who} lädt Sie zu {where} ein, Rolle: {role}.", inviteBare: "Sie sind zu {where} eingeladen, Rolle: {role}.",
        in: "{project} bei {organization}", until: "Gültig bis {date}", accept: "Annehmen", decline: "Ablehnen", dismiss: "Nicht jetzt",
        sure: "Diese Einladung endgültig ablehnen?", keep: "Behalten", accepted: "Sie gehören jetzt zu {where}.", declined: "Einladung zu {where} abgelehnt.",
        gone: "Die Einladung zu {where} gilt nicht mehr.", rights: "Diese Rolle darf nicht mehr vergeben werden. Bitten Sie um eine neue Einladung.",
        impersonated: "In fremdem Namen lassen sich Einladungen nicht beantworten.", again: "Das hat nicht geklappt. Bitte versuchen Sie es noch einmal.",
        roles: { member: "Mitglied", admin: "Admin", owner: "Inhaber", support: "Support", client: "Kunde", editor: "Bearbeiter" },
    },
    es: {
        region: "Invitaciones", invite: "{who} te invita a {where} con el rol {role}.", inviteBare: "Tienes una invitación a {where} con el rol {role}.",
        in: "{project} en {organization}", until: "Válida hasta el {date}", accept: "Aceptar", decline: "Rechazar", dismiss: "Ahora no",
        sure: "¿Rechazar esta invitación definitivamente?", keep: "Conservar", accepted: "Ya formas parte de {where}.", declined: "Invitación a {where} rechazada.",
        gone: "La invitación a {where} ya no es válida.", rights: "Quien te invitó ya no puede dar este rol. Pide una nueva invitación.",
        impersonated: "No se puede responder a invitaciones en nombre de otra persona.", again: "No ha funcionado. Inténtalo de nuevo.",
        roles: { member: "miembro", admin: "administrador", owner: "propietario", support: "soporte", client: "cliente", editor: "editor" },
    },
    fr: {
        region: "Invitations", invite: "{who} vous invite à rejoindre {where} avec le rôle {role}.", inviteBare: "Vous êtes invité à rejoindre {where} avec le rôle {role}.",
        in: "{project} chez {organization}", until: "Valable jusqu’au {date}", accept: "Accepter", decline: "Refuser", dismiss: "Plus tard",
        sure: "Refuser définitivement cette invitation ?", keep: "Garder", accepted: "Vous avez rejoint {where}.", declined: "Invitation à {where} refusée.",
        gone: "L’invitation à {where} n’est plus valable.", rights: "Ce rôle ne peut plus être attribué. Demandez une nouvelle invitation.",
        impersonated: "On ne peut pas répondre aux invitations au nom d’un autre.", again: "Cela n’a pas fonctionné. Veuillez réessayer.",
        roles: { member: "membre", admin: "administrateur", owner: "propriétaire", support: "support", client: "client", editor: "éditeur" },
    },
    ja: {
        region: "招待", invite: "{who} さんから {where} に招待されています（権限：{role}）。", inviteBare: "{where} に招待されています（権限：{role}）。",
        in: "{organization} の {project}", until: "有効期限：{date}", accept: "承諾する", decline: "辞退する", dismiss: "後で",
        sure: "この招待を辞退しますか？取り消しはできません。", keep: "やめる", accepted: "{where} に参加しました。", declined: "{where} への招待を辞退しました。",
        gone: "{where} への招待は無効になりました。", rights: "招待した人はこの権限を付与できなくなりました。新しい招待を依頼してください。",
        impersonated: "代理でログイン中は招待に回答できません。", again: "うまくいきませんでした。もう一度お試しください。",
        roles: { member: "メンバー", admin: "管理者", owner: "オーナー", support: "サポート", client: "クライアント", editor: "編集者" },
    },
};

/** The first of these languages that there are words in. */
export function languageOf(wanted, known = TEXTS) {
    const short = wanted.filter(Boolean).map((tag) => tag.toLowerCase().split("-")[0]);
    return short.find((tag) => Object.hasOwn(known, tag)) ?? "en";
}

/** The sentence with its names in it; each name keeps its own direction of writing. */
export const fill = (sentence, names) =>
    sentence.replace(/\{(\w+)\}/g, (_, name) => `\u2068${names[name] ?? ""}\u2069`);

/** Without the marks that turn the direction of writing: a name could turn the words after it. */
const plain = (name) => name?.replace(/[\u202A-\u202E\u2066-\u2069]/g, "");

/** What the sentences about an invite are filled with. */
export function namesOf(invite, language) {
    const texts = TEXTS[language];
    const { project, invited_by: inviter, role } = invite;
    const organization = plain(invite.organization.name);
    const where = project ? fill(texts.in, { project: plain(project.name), organization }) : organization;
    const date = new Intl.DateTimeFormat(language, { dateStyle: "long" }).format(new Date(invite.expires_at)).replaceAll(" ", "\u00a0");
    return { who: plain(inviter?.name ?? inviter?.email), where, role: Object.hasOwn(texts.roles, role) ? texts.roles[role] : role, date };
}

export function sentenceOf(invite, language) {
    const texts = TEXTS[language];
    const names = namesOf(invite, language);
    return fill(names.who ? texts.invite : texts.inviteBare, names);
}

/** Whatever a server that is away, slow or not usher brings about. */
export class Failure extends Error {
    constructor(code, problem = {}, retryAfter = 0) {
        super(code);
        Object.assign(this, { code, problem, retryAfter });
    }
}

/** Calls usher. Anything but its JSON is a Failure with a code. */
export async function callUsher(base, method, path, { token, body } = {}) {
    let answer, json;
    try {
        const headers = {};
        if (token) headers.authorization = `Bearer ${token}`;
        if (body) headers["content-type"] = "application/json";
        const signal = AbortSignal.timeout(TIME_LIMIT);
        answer = await fetch(base + path, { method, headers, signal, credentials: "omit", body: body && JSON.stringify(body) });
        json = await answer.json();
    } catch {
        throw new Failure("unreachable");
    }
    if (!answer.ok || typeof json !== "object" || json === null) {
        throw new Failure(typeof json?.code === "string" ? json.code : "unreachable", json ?? {}, Number(answer.headers.get("retry-after")) || 0);
    }
    return json;
}

/** [`callUsher`], again each second while usher does not know the person yet. */
export async function callWhenKnown(base, method, path, options, seconds = 30) {
    const end = Date.now() + seconds * 1000;
    for (;;) {
        try {
            return await callUsher(base, method, path, { ...options, token: await options.getToken() });
        } catch (failure) {
            if (failure.code !== "not_synced" || Date.now() > end) throw failure;
            await new Promise((resolve) => setTimeout(resolve, 1000 * (failure.retryAfter || 1)));
        }
    }
}

/** An element with text, attributes and children. */
export function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
        if (name === "onclick") made.addEventListener("click", value);
        else if (value !== undefined) made.setAttribute(name, value);
    }
    made.append(...children.filter((child) => child !== undefined));
    return made;
}

/** All of the languages above are written from left to right, also on a page that is not. */
const sentence = (text) => element("span", { dir: "ltr" }, text);

const STYLE = `
:host { display: block; font: var(--usher-font, inherit); color: var(--usher-color, light-dark(#1a1d23, #eceef2));
    color-scheme: var(--usher-color-scheme, inherit); }
:host([hidden]) { display: none }
ul { list-style: none; margin: 0; padding: 0; display: grid; gap: .5rem }
li { display: flex; flex-wrap: wrap; gap: .75rem 1.5rem; align-items: center; justify-content: space-between; padding: .875rem 1rem;
    background: var(--usher-background, light-dark(#f3f5fb, #22252d)); border: 1px solid var(--usher-border, light-dark(#c9d0e3, #444b5c));
    border-radius: var(--usher-radius, .5rem); animation: come .2s ease-out }
@keyframes come { from { opacity: 0; transform: translateY(-.25rem) } }
@media (prefers-reduced-motion: reduce) { li { animation: none } }
.words { flex: 1 1 16rem; min-width: 0; overflow-wrap: anywhere; text-wrap: pretty; word-break: auto-phrase }
p { margin: 0; max-height: 6em; overflow: auto }
small { color: var(--usher-muted, light-dark(#545b6b, #a9b0c0)) }
.buttons { display: flex; flex-wrap: wrap; gap: .5rem }
button { font: inherit; min-height: 2.5rem; padding: 0 .875rem; border-radius: calc(var(--usher-radius, .5rem) * .75); cursor: pointer;
    border: 1px solid var(--usher-border, light-dark(#8089a0, #6b7388)); background: transparent; color: inherit }
button.first { background: var(--usher-accent, light-dark(#2f4bd8, #9fb1ff)); border-color: transparent; color: var(--usher-on-accent, light-dark(#fff, #10131c)) }
button:focus-visible, p:focus-visible { outline: 3px solid var(--usher-accent, light-dark(#2f4bd8, #9fb1ff)); outline-offset: 2px }
button[aria-disabled=true] { opacity: .6; cursor: progress }
.status:not(:empty) { padding: .5rem 0; overflow-wrap: anywhere }`;

class UsherInvites extends HTMLElement {
    static observedAttributes = ["lang"];
    /** A callback for the session token, instead of Clerk's script. */
    getToken = null;
    #items = [];
    #asking = null;
    #looking = null;
    #failures = 0;
    #timer = 0;
    #end = null;
    #list = element("ul", { part: "list" });
    #status = element("div", { class: "status", part: "status", role: "status", "aria-live": "polite" });

    constructor() {
        super();
        const root = this.attachShadow({ mode: "open" });
        const style = new CSSStyleSheet();
        style.replaceSync(STYLE);
        root.adoptedStyleSheets = [style];
        root.append(element("section", { part: "banner" }, this.#list, this.#status));
    }

    connectedCallback() {
        // What was set before the class was there.
        if (Object.hasOwn(this, "getToken") && !this.getToken) delete this.getToken;
        this.#end = new AbortController();
        const { signal } = this.#end;
        document.addEventListener("visibilitychange", () => !document.hidden && this.refresh(), { signal });
        addEventListener("online", () => this.refresh(), { signal });
        this.channel = new BroadcastChannel(CHANNEL);
        this.channel.onmessage = ({ data }) => {
            this.#items = this.#items.filter(({ id }) => id !== data?.id);
            this.#render();
        };
        this.#followClerk(signal);
        this.#render();
        this.refresh();
    }

    disconnectedCallback() {
        this.#end.abort();
        this.channel.close();
        clearTimeout(this.#timer);
    }

    attributeChangedCallback() {
        this.#render();
    }

    /** The invites that are shown. */
    get invites() {
        return [...this.#items];
    }

    /** Asks usher for the invites. */
    async refresh() {
        this.#looking ??= this.#look().finally(() => (this.#looking = null));
        return this.#looking;
    }

    get #base() {
        return (this.getAttribute("src") ?? HERE).replace(/\/$/, "");
    }

    get #language() {
        return languageOf([this.lang, this.closest("[lang]")?.lang, ...navigator.languages]);
    }

    /** Clerk's script may come after this one, and people sign in and out. */
    async #followClerk(signal) {
        while (!window.Clerk?.addListener) {
            if (signal.aborted || this.getToken) return;
            await new Promise((resolve) => setTimeout(resolve, 50));
        }
        let before;
        const stop = window.Clerk.addListener(({ session }) => {
            if (session?.id !== before) {
                before = session?.id;
                this.refresh();
            }
        });
        signal.addEventListener("abort", () => stop?.());
    }

    async #token() {
        return this.getToken ? this.getToken() : window.Clerk?.session?.getToken();
    }

    async #look() {
        clearTimeout(this.#timer);
        let wait = 0;
        try {
            const token = await this.#token();
            const { items, synced } = token ? await callUsher(this.#base, "GET", "/v1/me/invites", { token }) : { items: [], synced: true };
            if (!Array.isArray(items)) throw new Failure("unreachable");
            this.#failures = 0;
            const isNew = items.some(({ id }) => !this.#items.some((known) => known.id === id));
            this.#items = items;
            this.#render();
            if (isNew) this.#tell("shown", { invites: this.invites });
            // The person has just signed up: usher may hear of them in a moment.
            if (!synced) wait = 5000;
        } catch (failure) {
            this.#tell("error", { code: failure.code ?? "no_token" });
            wait = Math.min(300_000, 5000 * 2 ** this.#failures++);
        }
        if (wait && this.isConnected) this.#timer = setTimeout(() => !document.hidden && this.refresh(), wait);
    }

    #tell(name, detail) {
        this.dispatchEvent(new CustomEvent(`usher-${name}`, { detail, bubbles: true, composed: true }));
    }

    #render() {
        const language = this.#language;
        const section = this.shadowRoot.firstElementChild;
        section.lang = language;
        if (this.#items.length) {
            section.setAttribute("role", "region");
            section.setAttribute("aria-label", TEXTS[language].region);
        } else {
            section.removeAttribute("role");
            section.removeAttribute("aria-label");
        }
        // A button that has the focus keeps it while nothing changes.
        const wanted = JSON.stringify([language, this.#asking, this.#items]);
        if (wanted === this.shown) return;
        this.shown = wanted;
        this.#list.hidden = !this.#items.length;
        this.#list.replaceChildren(...this.#items.map((invite) => this.#item(invite, language)));
    }

    #item(invite, language) {
        const texts = TEXTS[language];
        const id = `i-${invite.id}`;
        const isAsked = this.#asking === invite.id;
        const words = element("div", { class: "words", part: "words" },
            element("p", { id, tabindex: "-1" }, sentence(sentenceOf(invite, language))),
            element("small", {}, sentence(isAsked ? texts.sure : fill(texts.until, namesOf(invite, language)))));
        const button = (part, text, onclick) =>
            element("button", { type: "button", part: `button ${part}`, class: part === "accept" ? "first" : "", "aria-describedby": id, onclick }, text);
        const answer = (action) => (event) => this.#answer(event.currentTarget, invite, action);
        const buttons = isAsked
            ? [button("confirm", texts.decline, answer("decline")), button("keep", texts.keep, () => this.#ask(invite, null, "decline"))]
            : [button("accept", texts.accept, answer("accept")), button("decline", texts.decline, () => this.#ask(invite, invite.id, "keep")),
                button("dismiss", texts.dismiss, answer("dismiss"))];
        return element("li", { part: "invite", "data-id": invite.id }, words, element("div", { class: "buttons" }, ...buttons));
    }

    /** Declining is final, so it asks once. */
    #ask(invite, asking, focused) {
        this.#asking = asking;
        this.#render();
        this.#list.querySelector(`[data-id="${CSS.escape(invite.id)}"] [part~="${focused}"]`)?.focus();
    }

    async #answer(button, invite, action) {
        if (button.getAttribute("aria-disabled")) return;
        button.setAttribute("aria-disabled", "true");
        const texts = TEXTS[this.#language];
        const say = (text) => this.#status.replaceChildren(sentence(fill(text, namesOf(invite, this.#language))));
        try {
            const path = `/v1/me/invites/${encodeURIComponent(invite.id)}/${action}`;
            const answered = await callWhenKnown(this.#base, "POST", path, { getToken: () => this.#token() });
            const done = { accept: "accepted", decline: "declined", dismiss: "dismissed" }[action];
            this.#remove(invite);
            if (texts[done]) say(texts[done]);
            else this.#status.replaceChildren();
            this.#tell(done, { invite: answered });
        } catch ({ code }) {
            const gone = ["not_found", "invite_accepted", "invite_declined", "invite_revoked", "invite_expired", "target_deleted"];
            if (gone.includes(code)) this.#remove(invite);
            const rights = ["inviter_lost_rights", "unknown_role"];
            say(gone.includes(code) ? texts.gone : rights.includes(code) ? texts.rights : texts[code === "impersonated" ? code : "again"]);
            button.removeAttribute("aria-disabled");
            this.#tell("error", { code });
        }
    }

    #remove(invite) {
        this.#asking = null;
        const position = this.#items.findIndex(({ id }) => id === invite.id);
        const hadFocus = this.shadowRoot.activeElement;
        this.#items = this.#items.filter(({ id }) => id !== invite.id);
        this.#render();
        // The focus goes on to the next invite, not back to the start of the page.
        if (hadFocus) this.#list.querySelectorAll("p")[Math.min(position, this.#items.length - 1)]?.focus();
        this.channel.postMessage({ id: invite.id });
    }
}

if (!customElements.get("usher-invites")) customElements.define("usher-invites", UsherInvites);
