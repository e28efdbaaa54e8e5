//! The mails of development, which are files: a list, and each as a mail program shows it. Only where mails are files.

use std::path::PathBuf;

use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse as _, Response};
use axum::routing::get;
use axum::{Extension, Router};
use maud::{Markup, html};
use usher_mail::{WrittenMail, written_mail, written_mails};

use super::layout::{CELL, cut, details, document, refusal, table, text, time, whole_time};
use super::query::segment;
use super::viewer::Viewer;
use super::{Board, OVERVIEW};
use crate::config::Config;
use crate::ui::home::{MAILBOX, mail_folder};

/// Mails of the list.
const NEWEST: usize = 50;
/// The page of a mail frames its HTML part.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; frame-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// The HTML part runs nothing and loads nothing. Its links open beside the page.
const PART_POLICY: &str = "sandbox allow-popups allow-popups-to-escape-sandbox; default-src 'none'; \
     style-src 'unsafe-inline'; base-uri 'self'; form-action 'none'; frame-ancestors 'self'";

pub(super) fn pages(config: &Config) -> Router<Board> {
    let Some(folder) = mail_folder(config) else {
        return Router::new();
    };
    Router::new()
        .route(MAILBOX, get(list))
        .route("/board/mailbox/{name}", get(show))
        .route("/board/mailbox/{name}/html", get(part))
        .layer(Extension(Folder(folder.to_owned())))
}

#[derive(Clone)]
struct Folder(PathBuf);

async fn list(
    State(board): State<Board>,
    Extension(viewer): Extension<Viewer>,
    Extension(Folder(folder)): Extension<Folder>,
) -> Response {
    if let Some(refused) = refused(&viewer) {
        return refused;
    }
    let now = board.app.clock.now();
    let rows = |mails: Vec<WrittenMail>| {
        html! {
            @for mail in &mails {
                tr {
                    td.long { a href=(segment(MAILBOX, &mail.file)) { (cut(&mail.subject, CELL)) } }
                    td { (cut(&mail.to, CELL)) }
                    td { @if let Some(date) = mail.date { (time(date, now)) } }
                }
            }
        }
    };
    let body = match written_mails(&folder, NEWEST) {
        Ok(mails) if mails.is_empty() => html! { p { "No mail was written yet. Invite an address." } },
        Ok(mails) => table("Mails, newest first", &["Subject", "To", "When"], rows(mails)),
        Err(error) => html! { p.problem { "The folder can't be read: " (error) } },
    };
    let about = html! { p { "The newest " (NEWEST) " files of " code { (folder.display()) } }
        (body)
    };
    page("Mailbox", about)
}

async fn show(
    State(board): State<Board>,
    Extension(viewer): Extension<Viewer>,
    Extension(Folder(folder)): Extension<Folder>,
    Path(name): Path<String>,
) -> Response {
    let mail = match find(&viewer, &folder, &name) {
        Ok(mail) => mail,
        Err(refused) => return *refused,
    };
    let now = board.app.clock.now();
    let body = html! {
        (details(&[
            ("To", Some(text(&mail.to))),
            ("Sent", mail.date.map(|date| whole_time(date, now))),
            ("Links", Some(html! { @for link in links(&mail.text) { a href=(link) { (link) } " " } })),
        ]))
        h2 { "HTML" }
        iframe title="The mail's HTML part" sandbox="allow-popups allow-popups-to-escape-sandbox"
            src=(format!("{}/html", segment(MAILBOX, &mail.file))) {}
        h2 { "Text" }
        pre.wrapped { (mail.text) }
        p { a href=(MAILBOX) { "All mails" } }
    };
    page(&mail.subject, body)
}

async fn part(
    Extension(viewer): Extension<Viewer>,
    Extension(Folder(folder)): Extension<Folder>,
    Path(name): Path<String>,
) -> Response {
    let mail = match find(&viewer, &folder, &name) {
        Ok(mail) => mail,
        Err(refused) => return *refused,
    };
    // The frame is no place for the pages that links lead to.
    let html = mail.html.replacen("<head>", "<head><base target=\"_blank\">", 1);
    let headers = [
        (header::CONTENT_SECURITY_POLICY, PART_POLICY),
        (header::X_FRAME_OPTIONS, "SAMEORIGIN"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (headers, Html(html)).into_response()
}

fn find(viewer: &Viewer, folder: &std::path::Path, name: &str) -> Result<WrittenMail, Box<Response>> {
    match refused(viewer) {
        Some(refused) => Err(Box::new(refused)),
        None => written_mail(folder, name).ok_or_else(|| Box::new(not_there())),
    }
}

/// Who signs in to look only sees no whole addresses elsewhere.
fn refused(viewer: &Viewer) -> Option<Response> {
    let text = "Mails have addresses and links in them. The role `operate` is needed to read them.";
    let may_read = viewer.name.is_none() || viewer.operates();
    (!may_read).then(|| refusal(StatusCode::FORBIDDEN, "The mailbox is for those who operate", text))
}

fn not_there() -> Response {
    refusal(
        StatusCode::NOT_FOUND,
        "No such mail",
        "The folder has no mail of this name.",
    )
}

fn page(title: &str, body: Markup) -> Response {
    let page = document(
        title,
        html! {
            header { nav aria-label="Mailbox" { strong { "usher" } a href=(OVERVIEW) { "Board" } a href=(MAILBOX) { "Mailbox" } } }
            main id="main" tabindex="-1" {
                h1 { (title) }
                (body)
            }
        },
    );
    ([(header::CONTENT_SECURITY_POLICY, POLICY)], Html(page.into_string())).into_response()
}

/// The addresses of web pages in a text, each once.
fn links(text: &str) -> Vec<&str> {
    let mut links: Vec<&str> = Vec::new();
    let words = text.split_whitespace();
    for word in words.filter(|word| word.starts_with("https://") || word.starts_with("http://")) {
        if !links.contains(&word) {
            links.push(word);
        }
    }
    links
}
