//! Who may use the server.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;

use super::routes::Served;
use super::wire::Refusal;

/// Lets through who carries the token, if there is one, and no page of another site.
pub(super) async fn guard(
    State(served): State<Arc<Served>>,
    request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    let headers = request.headers();
    if let Some(token) = &served.options().token {
        let sent = text(headers, header::AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
        if !sent.is_some_and(|sent| same(sent.as_bytes(), token.as_bytes())) {
            let refusal = Refusal::new(StatusCode::UNAUTHORIZED, "the bearer token is missing or wrong");
            return Err(refusal.code("invalid_api_key"));
        }
    } else if !at_home(headers) {
        // Without a token, being able to connect is all it takes, and a browser can connect for any page that it shows.
        return Err(Refusal::new(
            StatusCode::FORBIDDEN,
            "a page of another site may not ask here; set a token if it should",
        ));
    }
    Ok(next.run(request).await)
}

/// Whether the request comes from no page, or from one that this server gave out itself, under a name of this machine.
fn at_home(headers: &HeaderMap) -> bool {
    let Some(origin) = text(headers, header::ORIGIN) else { return true };
    let Some((_, host)) = origin.split_once("://") else { return false };
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    // A name of somebody else's that resolves to this machine is none of its own.
    text(headers, header::HOST) == Some(host) && matches!(name, "localhost" | "127.0.0.1" | "[::1]")
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Whether both are equal, in a time that tells nothing about where they differ.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differing, (a, b)| differing | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_others_are_not_at_home() {
        let home = |origin: &str, host: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ORIGIN, origin.parse().unwrap());
            headers.insert(header::HOST, host.parse().unwrap());
            at_home(&headers)
        };
        assert!(at_home(&HeaderMap::new()));
        assert!(home("http://127.0.0.1:8484", "127.0.0.1:8484") && home("http://localhost", "localhost"));
        assert!(!home("https://example.com", "127.0.0.1:8484"));
        assert!(!home("http://rebound.example:8484", "rebound.example:8484"));
        assert!(!home("null", "127.0.0.1:8484"));
    }
}
