// The accept page: shows the invite of a link, signs its holder up or in by Clerk's script, and accepts or declines.
//
// The token comes in the fragment. It moves to this tab's storage at once, so that it is in no address that Clerk, a proxy or
// a history may keep, and is still there after signing up. It is sent in the bodies of requests only.

import { clerkSession, loadClerk } from "./clerk.js";
import { callUsher, callWhenKnown, element, fill, languageOf, namesOf, sentenceOf } from "./usher.js";

const TEXTS = {
    en: {
        wait: "One moment …", to: "Sent to {email}. Valid until {date}.", signUp: "Sign up", signIn: "Sign in", accept: "Accept", decline: "Decline",
        sure: "Decline this invite for good?", sureText: "Only a new invite can undo this.", keep: "Keep the invite",
        joined: "You are now in {where}.", more: "You have more invites:", onward: "Continue to {app}", declined: "You have declined the invite to {where}.",
        done: "You can close this page.", wasAccepted: "This invite to {where} has been accepted.", wasDeclined: "This invite to {where} was declined.",
        revoked: "The invite to {where} was withdrawn.", expired: "The invite to {where} has expired.", askNew: "Please ask for a new invite.",
        forged: "This link is not valid.", forgedText: "A newer mail may have replaced it. Open the link of the newest mail, or ask for a new invite.",
        none: "The link is incomplete.", noneText: "Please open it from the mail, or copy all of it.",
        other: "This invite is for {email}.", otherText: "You are signed in as {me}.", another: "Use another account",
        verify: "Please verify {email} first.", verifyText: "Then come back to this page.", openAccount: "Open my account", again: "Try again",
        away: "We can't be reached at the moment.", awayText: "Your invite is safe. Please try again in a moment.",
        offline: "You are offline.", offlineText: "Your invite is safe. This page goes on when you are connected again.",
        setUp: "Your account is still being set up.", setUpText: "This takes longer than usual. Try again in a minute; if it stays so, ask the person who invited you.",
        rights: "This invite can't be accepted any more.", impersonated: "You act for another person, so you can't answer their invites.",
        app: "Please open {app} and sign in there.", play: "Development: who opens the link?", invitee: "The invited person", stranger: "Another person",
    },
    de: {
        wait: "Einen Moment …", to: "Gesendet an {email}. Gültig bis {date}.", signUp: "Registrieren", signIn: "Anmelden", accept: "Annehmen", decline: "Ablehnen",
        sure: "Diese Einladung endgültig ablehnen?", sureText: "Danach hilft nur eine neue Einladung.", keep: "Einladung behalten",
        joined: "Sie gehören jetzt zu {where}.", more: "Sie haben weitere Einladungen:", onward: "Weiter zu {app}", declined: "Sie haben die Einladung zu {where} abgelehnt.",
        done: "Sie können diese Seite schließen.", wasAccepted: "Diese Einladung zu {where} wurde angenommen.", wasDeclined: "Diese Einladung zu {where} wurde abgelehnt.",
        revoked: "Die Einladung zu {where} wurde zurückgezogen.", expired: "Die Einladung zu {where} ist abgelaufen.", askNew: "Bitten Sie um eine neue Einladung.",
        forged: "Dieser Link ist ungültig.", forgedText: "Vielleicht hat eine neuere E-Mail ihn ersetzt. Öffnen Sie den Link der neuesten E-Mail oder bitten Sie um eine neue Einladung.",
        none: "Der Link ist unvollständig.", noneText: "Öffnen Sie ihn aus der E-Mail oder kopieren Sie ihn ganz.",
        other: "Diese Einladung ist für {email}.", otherText: "Sie sind als {me} angemeldet.", another: "Anderes Konto verwenden",
        verify: "Bestätigen Sie zuerst {email}.", verifyText: "Kommen Sie dann auf diese Seite zurück.", openAccount: "Mein Konto öffnen", again: "Noch einmal versuchen",
        away: "Wir sind gerade nicht erreichbar.", awayText: "Ihre Einladung geht nicht verloren. Versuchen Sie es gleich noch einmal.",
        offline: "Sie sind offline.", offlineText: "Ihre Einladung geht nicht verloren. Sobald Sie wieder verbunden sind, geht es hier weiter.",
        setUp: "Ihr Konto wird noch eingerichtet.", setUpText: "Das dauert länger als sonst. Versuchen Sie es in einer Minute noch einmal, oder fragen Sie, wer Sie eingeladen hat.",
        rights: "Diese Einladung kann nicht mehr angenommen werden.", impersonated: "In fremdem Namen lassen sich Einladungen nicht beantworten.",
        app: "Öffnen Sie {app} und melden Sie sich dort an.", play: "Entwicklung: Wer öffnet den Link?", invitee: "Die eingeladene Person", stranger: "Jemand anderes",
    },
    es: {
        wait: "Un momento…", to: "Enviada a {email}. Válida hasta el {date}.", signUp: "Crear cuenta", signIn: "Iniciar sesión", accept: "Aceptar", decline: "Rechazar",
        sure: "¿Rechazar esta invitación definitivamente?", sureText: "Después solo servirá una nueva invitación.", keep: "Conservar la invitación",
        joined: "Ya formas parte de {where}.", more: "Tienes más invitaciones:", onward: "Continuar a {app}", declined: "Has rechazado la invitación a {where}.",
        done: "Puedes cerrar esta página.", wasAccepted: "Esta invitación a {where} ya fue aceptada.", wasDeclined: "Esta invitación a {where} fue rechazada.",
        revoked: "La invitación a {where} fue retirada.", expired: "La invitación a {where} ha caducado.", askNew: "Pide una nueva invitación.",
        forged: "Este enlace no es válido.", forgedText: "Quizá lo sustituyó un correo más reciente. Abre el enlace del último correo o pide una nueva invitación.",
        none: "El enlace está incompleto.", noneText: "Ábrelo desde el correo o cópialo entero.",
        other: "Esta invitación es para {email}.", otherText: "Has iniciado sesión como {me}.", another: "Usar otra cuenta",
        verify: "Primero verifica {email}.", verifyText: "Después vuelve a esta página.", openAccount: "Abrir mi cuenta", again: "Intentar de nuevo",
        away: "No estamos disponibles en este momento.", awayText: "Tu invitación está a salvo. Inténtalo de nuevo en un momento.",
        offline: "No tienes conexión.", offlineText: "Tu invitación está a salvo. Esta página continuará cuando vuelvas a tener conexión.",
        setUp: "Tu cuenta aún se está preparando.", setUpText: "Está tardando más de lo normal. Inténtalo en un minuto; si sigue igual, pregunta a quien te invitó.",
        rights: "Esta invitación ya no se puede aceptar.", impersonated: "No se puede responder a invitaciones en nombre de otra persona.",
        app: "Abre {app} e inicia sesión allí.", play: "Desarrollo: ¿quién abre el enlace?", invitee: "La persona invitada", stranger: "Otra persona",
    },
    fr: {
        wait: "Un instant…", to: "Envoyée à {email}. Valable jusqu’au {date}.", signUp: "Créer un compte", signIn: "Se connecter", accept: "Accepter", decline: "Refuser",
        sure: "Refuser définitivement cette invitation ?", sureText: "Ensuite, il faudra une nouvelle invitation.", keep: "Garder l’invitation",
        joined: "Vous avez rejoint {where}.", more: "Vous avez d’autres invitations :", onward: "Continuer vers {app}", declined: "Vous avez refusé l’invitation à {where}.",
        done: "Vous pouvez fermer cette page.", wasAccepted: "Cette invitation à {where} a été acceptée.", wasDeclined: "Cette invitation à {where} a été refusée.",
        revoked: "L’invitation à {where} a été retirée.", expired: "L’invitation à {where} a expiré.", askNew: "Demandez une nouvelle invitation.",
        forged: "Ce lien n’est pas valable.", forgedText: "Un e-mail plus récent l’a peut-être remplacé. Ouvrez le lien du dernier e-mail ou demandez une nouvelle invitation.",
        none: "Le lien est incomplet.", noneText: "Ouvrez-le depuis l’e-mail ou copiez-le en entier.",
        other: "Cette invitation est pour {email}.", otherText: "Vous êtes connecté en tant que {me}.", another: "Utiliser un autre compte",
        verify: "Vérifiez d’abord {email}.", verifyText: "Revenez ensuite sur cette page.", openAccount: "Ouvrir mon compte", again: "Réessayer",
        away: "Nous ne sommes pas joignables pour le moment.", awayText: "Votre invitation n’est pas perdue. Réessayez dans un instant.",
        offline: "Vous êtes hors ligne.", offlineText: "Votre invitation n’est pas perdue. Cette page reprendra dès que la connexion sera rétablie.",
        setUp: "Votre compte est en cours de création.", setUpText: "Cela prend plus de temps que d’habitude. Réessayez dans une minute ou demandez à la personne qui vous a invité.",
        rights: "Cette invitation ne peut plus être acceptée.", impersonated: "On ne peut pas répondre aux invitations au nom d’un autre.",
        app: "Ouvrez {app} et connectez-vous.", play: "Développement : qui ouvre le lien ?", invitee: "La personne invitée", stranger: "Quelqu’un d’autre",
    },
    ja: {
        wait: "少々お待ちください…", to: "送信先：{email}　有効期限：{date}", signUp: "アカウントを作成", signIn: "ログイン", accept: "承諾する", decline: "辞退する",
        sure: "この招待を辞退しますか？", sureText: "取り消すには新しい招待が必要です。", keep: "辞退しない",
        joined: "{where} に参加しました。", more: "ほかにも招待があります：", onward: "{app} へ進む", declined: "{where} への招待を辞退しました。",
        done: "このページを閉じてかまいません。", wasAccepted: "{where} への招待は承諾済みです。", wasDeclined: "{where} への招待は辞退されました。",
        revoked: "{where} への招待は取り消されました。", expired: "{where} への招待は期限切れです。", askNew: "新しい招待を依頼してください。",
        forged: "このリンクは無効です。", forgedText: "新しいメールに置き換えられた可能性があります。最新のメールのリンクを開くか、新しい招待を依頼してください。",
        none: "リンクが不完全です。", noneText: "メールから開くか、リンク全体をコピーしてください。",
        other: "この招待は {email} 宛てです。", otherText: "{me} としてログイン中です。", another: "別のアカウントを使う",
        verify: "先に {email} を確認してください。", verifyText: "確認後、このページに戻ってください。", openAccount: "アカウントを開く", again: "もう一度試す",
        away: "現在接続できません。", awayText: "招待は失われません。しばらくしてからもう一度お試しください。",
        offline: "オフラインです。", offlineText: "招待は失われません。接続が回復すると、このページは自動的に続行します。",
        setUp: "アカウントを準備中です。", setUpText: "通常より時間がかかっています。1 分後にもう一度お試しください。解決しない場合は、招待した人にお問い合わせください。",
        rights: "この招待はもう承諾できません。", impersonated: "代理でログイン中は招待に回答できません。",
        app: "{app} を開いてログインしてください。", play: "開発用：リンクを開く人", invitee: "招待された人", stranger: "別の人",
    },
};

const TOKEN = "usher-token";
const PLAYED = "usher-played-session";
const main = document.getElementById("main");
const settings = main.dataset;
const base = new URL("..", import.meta.url).href.replace(/\/$/, "");
const language = languageOf(navigator.languages);
const texts = TEXTS[language];
document.documentElement.lang = language;

let invite;
let session;
const isBroken = () => {
    const name = navigator.onLine ? "away" : "offline";
    say(name, `${name}Text`, [button("again", start, true)]);
};

/** Shows one state: its heading, its text and its buttons. Names are filled in once, so that braces in them stay. */
function say(name, text, buttons = [], names = {}, title = texts[name]) {
    const words = (sentence) => fill(sentence, { app: settings.appName, ...names });
    const heading = element("h1", { tabindex: "-1" }, title === texts[name] ? words(title) : title);
    const state = document.getElementById("state");
    state.dataset.state = name;
    state.replaceChildren(heading, ...(text ? [element("p", {}, words(texts[text]))] : []), element("div", { class: "buttons" }, ...buttons));
    heading.focus();
}

function button(text, action, isFirst = false) {
    const onclick = async ({ currentTarget }) => {
        if (currentTarget.getAttribute("aria-disabled")) return;
        currentTarget.setAttribute("aria-disabled", "true");
        try {
            await action();
        } catch {
            isBroken();
        }
        currentTarget.removeAttribute("aria-disabled");
    };
    return element("button", { type: "button", class: isFirst ? "first" : "", "data-action": text, onclick }, texts[text]);
}

/** The way on to the app, where it is known. */
function onward(url) {
    const target = [url, settings.appUrl].find((address) => /^https?:\/\//i.test(address ?? ""));
    return target && element("a", { class: "button first", href: target }, fill(texts.onward, { app: settings.appName }));
}

function takeToken() {
    const token = location.hash.slice(1);
    // Clerk's forms may put a path there.
    if (token && !token.startsWith("/")) {
        sessionStorage.setItem(TOKEN, token);
        history.replaceState(null, "", location.pathname + location.search);
    }
    return sessionStorage.getItem(TOKEN);
}

async function start() {
    const token = takeToken();
    if (!token) return say("none", "noneText");
    say("wait");
    try {
        invite = await callUsher(base, "POST", "/v1/invite-links", { body: { token } });
    } catch ({ code }) {
        return code === "not_found" ? say("forged", "forgedText") : isBroken();
    }
    if (invite.status !== "pending") return showClosed(invite.status);
    try {
        session ??= await findSession();
    } catch {
        return isBroken();
    }
    return session.isSignedIn() ? offer() : askToSignIn();
}

function showClosed(status) {
    const names = namesOf(invite, language);
    if (status === "accepted") {
        const link = onward(invite.redirect_url);
        return say("wasAccepted", link ? "" : "done", [link].filter(Boolean), names);
    }
    return say(status === "declined" ? "wasDeclined" : status, "askNew", [], names);
}

function showInvite(name, buttons) {
    const names = { ...namesOf(invite, language), email: invite.email };
    say(name, "to", buttons, names, sentenceOf(invite, language));
}

function askToSignIn() {
    showInvite("signed-out", session.ways());
    if (session.note) document.querySelector("#state .buttons").before(element("small", {}, session.note));
}

function offer() {
    showInvite("signed-in", [button("accept", accept, true), button("decline", askOnce)]);
}

function askOnce() {
    say("sure", "sureText", [button("decline", decline), button("keep", offer, true)]);
}

async function accept() {
    const waiting = setTimeout(() => say("wait"), 1500);
    let accepted;
    try {
        const options = { body: { token: takeToken() }, getToken: session.getToken };
        accepted = await callWhenKnown(base, "POST", "/v1/me/invites/accept", options);
    } catch (failure) {
        return refused(failure);
    } finally {
        clearTimeout(waiting);
    }
    return welcome(accepted);
}

async function decline() {
    try {
        await callWhenKnown(base, "POST", `/v1/me/invites/${invite.id}/decline`, { getToken: session.getToken });
        sessionStorage.removeItem(TOKEN);
        say("declined", "done", [], namesOf(invite, language));
    } catch (failure) {
        // For another person, an invite by its id does not exist.
        refused(failure.code === "not_found" ? { ...failure, code: "other_address" } : failure);
    }
}

/** What stands in the way, and what to do about it. */
function refused({ code }) {
    const names = { ...namesOf(invite, language), email: invite.email, me: session.email() };
    const closed = /^(?:invite|link)_(accepted|declined|revoked|expired)$/.exec(code);
    if (closed) return showClosed(closed[1]);
    if (code === "other_address" && session.isUnverified()) {
        return say("verify", "verifyText", [button("openAccount", session.openAccount, true), button("again", start)], names);
    }
    if (code === "other_address") return say("other", "otherText", [button("another", anotherAccount, true)], names);
    if (code === "not_synced") return say("setUp", "setUpText", [button("again", accept, true)]);
    if (["inviter_lost_rights", "unknown_role", "target_deleted", "not_found"].includes(code)) return say("rights", "askNew");
    if (code === "impersonated") return say("impersonated");
    if (code === "unauthorized") return askToSignIn();
    return isBroken();
}

async function anotherAccount() {
    await session.signOut();
    await start();
}

/** After accepting: other invites of the same person, then on to the app. */
async function welcome(accepted) {
    sessionStorage.removeItem(TOKEN);
    const link = onward(accepted.redirect_url);
    say("joined", link ? "" : "done", [link].filter(Boolean), namesOf(invite, language));
    const banner = element("usher-invites", { hidden: "" });
    banner.getToken = session.getToken;
    banner.addEventListener("usher-shown", () => {
        if (!banner.hidden) return;
        banner.hidden = false;
        banner.before(element("p", {}, texts.more));
    });
    document.querySelector("#state .buttons").before(banner);
    await banner.refresh();
    if (link && !banner.invites.length) setTimeout(() => location.assign(link.href), 1500);
}

/** Who is signed in: by Clerk's script, by usher's stand-in in development, or by the app only. */
async function findSession() {
    if (settings.key) {
        const clerk = await loadClerk(settings.frontendApi, settings.key);
        const signedIn = clerkSession(clerk, () => invite.address, offer);
        return { ...signedIn, ways: () => [button("signUp", signedIn.signUp, true), button("signIn", signedIn.signIn)] };
    }
    if (settings.development) return playedSession();
    return {
        isSignedIn: () => false, note: fill(texts.app, { app: settings.appName }), ways: () => [onward()].filter(Boolean),
    };
}

/** In development without Clerk: usher signs a token for the person that the visitor chooses. */
function playedSession() {
    const played = () => JSON.parse(sessionStorage.getItem(PLAYED) ?? "null");
    const play = async (who) => {
        const body = { token: takeToken(), who };
        sessionStorage.setItem(PLAYED, JSON.stringify(await callUsher(base, "POST", "/i/development/sign-in", { body })));
        offer();
    };
    return {
        isSignedIn: () => Boolean(played()),
        getToken: async () => played()?.session_token,
        email: () => played()?.email,
        isUnverified: () => false,
        signOut: async () => sessionStorage.removeItem(PLAYED),
        note: texts.play,
        ways: () => [button("invitee", () => play("invitee"), true), button("stranger", () => play("stranger"))],
    };
}

addEventListener("hashchange", start);
addEventListener("online", () => ["away", "offline"].includes(document.getElementById("state").dataset.state) && start());
start().catch(isBroken);
