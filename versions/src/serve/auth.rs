//! Who may ask: a bearer token, compared in constant time; without one, nobody who comes by way of a browser's page.

use axum::http::{HeaderMap, StatusCode, header};

use super::error::ServeError;

/// The shortest token; shorter ones are guessed.
const SHORTEST: usize = 16;

/// A secret that requests carry as `Authorization: Bearer SECRET`. Only its hash is kept.
#[derive(Clone)]
pub struct Token(blake3::Hash);

impl Token {
    /// Takes a secret; white space around it is not part of it.
    pub fn new(secret: &str) -> Result<Token, ServeError> {
        let secret = secret.trim();
        let wrong = |reason| Err(ServeError::Token { reason });
        if secret.len() < SHORTEST {
            return wrong("is shorter than 16 characters");
        }
        if !secret.bytes().all(|byte| byte.is_ascii_graphic()) {
            return wrong("holds white space or characters that are not ASCII");
        }
        Ok(Token(blake3::hash(secret.as_bytes())))
    }

    fn is(&self, secret: &str) -> bool {
        // Equality of hashes takes the same time whatever they are.
        self.0 == blake3::hash(secret.as_bytes())
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(***)")
    }
}

/// Whether a request is let in, and if not, why.
pub(super) fn check(token: Option<&Token>, headers: &HeaderMap) -> Result<(), (StatusCode, &'static str)> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(token) = token {
        let given = text(header::AUTHORIZATION).and_then(|value| value.split_once(' '));
        return match given {
            Some((scheme, secret)) if scheme.eq_ignore_ascii_case("bearer") && token.is(secret.trim()) => {
                Ok(())
            }
            Some(_) => Err((StatusCode::UNAUTHORIZED, "the token is wrong")),
            None => Err((StatusCode::UNAUTHORIZED, "a token is needed: Authorization: Bearer TOKEN")),
        };
    }
    // A page of the internet can let a browser of this machine send requests here. It says from where it comes; or the
    // name by which it reached us is not one of this machine.
    let host = text(header::HOST).unwrap_or_default();
    if let Some(origin) = text(header::ORIGIN)
        && origin.split_once("://").is_none_or(|(_, origin)| origin != host)
    {
        return Err((
            StatusCode::FORBIDDEN,
            "requests from pages of other sites are not taken without a token",
        ));
    }
    let name = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()));
    let name = name.map_or(host, |(name, _)| name).trim_matches(['[', ']']);
    if name.eq_ignore_ascii_case("localhost") || name.parse::<std::net::IpAddr>().is_ok() {
        Ok(())
    } else {
        Err((StatusCode::FORBIDDEN, "without a token this is reached by address or as localhost only"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_let_in() {
        let token = Token::new(" sixteen-letters-\n").unwrap();
        assert_eq!(format!("{token:?}"), "Token(***)");
        for (with_token, headers, status) in [
            (true, &[("authorization", "Bearer sixteen-letters-")][..], 200),
            (true, &[("authorization", "bearer sixteen-letters-"), ("origin", "http://x")], 200),
            (true, &[("authorization", "Bearer sixteen-letters")], 401),
            (true, &[("authorization", "sixteen-letters-")], 401),
            (true, &[("authorization", "Basic sixteen-letters-")], 401),
            (true, &[], 401),
            (false, &[("host", "127.0.0.1:80")], 200),
            (false, &[("host", "localhost")], 200),
            (false, &[("host", "[::1]:80")], 200),
            (false, &[("host", "127.0.0.1:80"), ("origin", "http://127.0.0.1:80")], 200),
            (false, &[("host", "127.0.0.1:80"), ("origin", "https://example.org")], 403),
            (false, &[("host", "127.0.0.1:80"), ("origin", "null")], 403),
            (false, &[("host", "rebound.example.org:80"), ("origin", "http://rebound.example.org:80")], 403),
            (false, &[], 403),
        ] {
            let map: HeaderMap =
                headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
            let found = check(with_token.then_some(&token), &map);
            assert_eq!(found.map_or_else(|(status, _)| status.as_u16(), |()| 200), status, "{headers:?}");
        }
        for wrong in ["", "short", "with a space in it", "nicht-ganz-ascii-ä"] {
            assert!(Token::new(wrong).is_err(), "{wrong:?}");
        }
    }
}
