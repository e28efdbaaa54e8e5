//! The cookies of a request.

use axum::http::{HeaderMap, header};

/// Names and values, in order. The same header has other apps' cookies, which may contain any bytes: only those that are
/// no text are left out.
pub fn cookies(headers: &HeaderMap) -> impl Iterator<Item = (&str, &str)> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .flat_map(|cookies| cookies.as_bytes().split(|&byte| byte == b';'))
        .filter_map(|cookie| std::str::from_utf8(cookie).ok()?.trim().split_once('='))
        .map(|(name, value)| (name.trim_end(), value.trim().trim_matches('"')))
}
