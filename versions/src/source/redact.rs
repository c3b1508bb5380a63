//! Secrets in addresses, for everything that shows or keeps an address. There are two readings of a query. What a key
//! *opens* is a credential by its name and never says which file is meant: that is left out of what is kept (specs that
//! are made, locks). What *may be* a secret is much more, and is hidden wherever an address is only shown.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;
use url::Url;

/// The names by which credentials stand in a query: those of the hubs, and of signed addresses. In lower case.
const OPENS: [&str; 23] = [
    "token",
    "api_key",
    "apikey",
    "api_token",
    "hf_token",
    "civitai_token",
    "x-api-key",
    "secret",
    "access_token",
    "private_token",
    "auth_token",
    "authorization",
    "client_secret",
    "password",
    "sig",
    "signature",
    "x-amz-signature",
    "x-amz-credential",
    "x-amz-security-token",
    "x-goog-signature",
    "x-goog-credential",
    "jwt",
    "pwd",
];
/// Parts of a query key's name that mark its value as something that may be a secret, in lower case.
const SUSPECT: [&str; 7] = ["token", "key", "secret", "signature", "credential", "password", "auth"];

/// What stands in the place of a secret.
pub(crate) const MASK: &str = "=***";

/// The name of a `name=value`, decoded, in lower case.
fn key_of(pair: &str) -> String {
    let name = pair.split('=').next().unwrap_or(pair);
    percent_decode_str(name).decode_utf8_lossy().to_ascii_lowercase()
}

fn is_named(pair: &str) -> bool {
    OPENS.contains(&key_of(pair).as_str())
}

/// True for a pair of a query that is a credential, or is an address that has one.
pub(crate) fn opens(pair: &str) -> bool {
    is_named(pair) || {
        let value = percent_decode_str(pair.split_once('=').map_or("", |(_, value)| value));
        let value = value.decode_utf8_lossy();
        value.contains("://") && (value.split(['?', '&', '#']).any(is_named) || has_user(&value, &["git"]))
    }
}

fn may_be_secret(pair: &str) -> bool {
    let name = key_of(pair);
    opens(pair) || SUSPECT.iter().any(|part| name.contains(part))
}

/// True for an address with a user who is none of `but`.
fn has_user(text: &str, but: &[&str]) -> bool {
    text.split_once("://").is_some_and(|(_, rest)| {
        let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
        authority.rsplit_once('@').is_some_and(|(user, _)| !but.contains(&user))
    })
}

/// The pairs of an address: of its query, and of its fragment where that is written like one.
fn pairs(text: &str) -> impl Iterator<Item = &str> {
    text.split(['?', '#']).skip(1).flat_map(|part| part.split('&'))
}

/// `url` with `***` for the values of the pairs that `is` says.
fn masked(url: &mut Url, is: fn(&str) -> bool) {
    let hides = |pair: &str| pair.split('?').any(is) || is(pair);
    let Some(query) = url.query().filter(|query| query.split('&').any(hides)) else { return };
    let mask = |pair: &str| match pair.split_once('=') {
        Some((name, _)) if hides(pair) => format!("{name}{MASK}"),
        _ => pair.to_owned(),
    };
    let query = query.split('&').map(mask).collect::<Vec<_>>().join("&");
    url.set_query(Some(&query));
}

fn without_user(url: &mut Url) {
    // Both fail only for addresses that cannot have user information in the first place.
    let _ = url.set_username("");
    let _ = url.set_password(None);
}

/// `address` as it may be shown. Also takes `user@host:path`, and text that is no address at all.
pub(crate) fn redact(address: &str) -> String {
    match Url::parse(address) {
        Ok(url) if url.has_host() => redact_url(&url),
        _ => {
            let end = address.find(['/', ':']).filter(|&end| !address[end..].starts_with("://"));
            match end.and_then(|end| address[..end].rfind('@')) {
                Some(at) => address[at + 1..].to_owned(),
                None => match (address.find("://"), address.rfind('@')) {
                    (Some(scheme), Some(at)) if scheme < at => {
                        format!("{}{}", &address[..scheme + 3], &address[at + 1..])
                    }
                    _ => address.to_owned(),
                },
            }
        }
    }
}

/// Words of another library as they may be shown: every address among them is cleaned.
pub(crate) fn redact_words(words: &str) -> String {
    let clean = |word: &str| match word.contains("://") {
        true => {
            let (start, rest) = word.split_at(word.find(|c: char| c.is_alphanumeric()).unwrap_or(0));
            let end = rest.trim_end_matches([')', ',', ':', ';', '"', '`', '\'']).len();
            format!("{start}{}{}", redact(&rest[..end]), &rest[end..])
        }
        false => word.to_owned(),
    };
    words.split(' ').map(clean).collect::<Vec<_>>().join(" ")
}

/// `url` as it may be shown.
pub(crate) fn redact_url(url: &Url) -> String {
    let mut shown = url.clone();
    without_user(&mut shown);
    shown.set_fragment(None);
    masked(&mut shown, may_be_secret);
    shown.to_string()
}

/// True when the address of a file carries a password or token.
pub(crate) fn has_secret(text: &str) -> bool {
    let of_web = text.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("http"));
    pairs(text).any(opens) || (of_web && has_user(text, &["git"]))
}

/// `url` without what opens it. It names the same file: two addresses that differ in this alone are one.
pub(crate) fn public_url(url: &Url) -> Url {
    let mut public = url.clone();
    without_user(&mut public);
    masked(&mut public, opens);
    without_fragment(&mut public);
    public
}

/// The address of a file as a lock may have it.
pub(crate) fn public_text(text: &str) -> String {
    if !has_secret(text) {
        return text.to_owned();
    }
    match Url::parse(text) {
        Ok(url) => public_url(&url).to_string(),
        Err(_) => text.split('?').next().unwrap_or_default().to_owned(),
    }
}

/// An address as cvs writes it into a spec that it makes: without passwords and tokens, so that whoever has their own
/// can use it. The user of an ssh address stays, for that is part of where it leads. Owned where something was left out.
pub(crate) fn without_secrets(text: &str) -> Cow<'_, str> {
    let Some((scheme, rest)) = text.split_once("://") else { return Cow::Borrowed(text) };
    let scheme = scheme.to_ascii_lowercase();
    let of_web = matches!(scheme.strip_prefix("git+").unwrap_or(&scheme), "http" | "https");
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    let user = authority.rsplit_once('@').map(|(user, _)| user);
    let in_authority = user.is_some_and(|user| of_web || user.contains(':'));
    if !in_authority && !pairs(rest).any(opens) {
        return Cow::Borrowed(text);
    }
    let Ok(mut url) = Url::parse(text) else {
        return Cow::Owned(redact(text.split(['?', '#']).next().unwrap_or_default()));
    };
    let _ = url.set_password(None);
    if of_web {
        without_user(&mut url);
    }
    if let Some(query) = url.query() {
        let kept: Vec<&str> = query.split('&').filter(|pair| !pair.split('?').any(opens)).collect();
        let kept = (!kept.is_empty()).then(|| kept.join("&"));
        url.set_query(kept.as_deref());
    }
    without_fragment(&mut url);
    Cow::Owned(url.into())
}

/// Takes away a fragment that is written like a query and has a credential in it.
fn without_fragment(url: &mut Url) {
    if url.fragment().is_some_and(|fragment| fragment.split(['?', '&', '#']).any(opens)) {
        url.set_fragment(None);
    }
}

/// A text as cvs writes it into a spec that it makes: every address in it is [`without_secrets`].
pub(crate) fn without_secrets_in(text: &str) -> Cow<'_, str> {
    let (mut out, mut rest, mut changed) = (String::new(), text, false);
    while let Some(at) = rest.find("://") {
        let of_scheme = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
        let start = rest[..at].rfind(|c| !of_scheme(c)).map_or(0, |last| rest.ceil_char_boundary(last + 1));
        // Brackets and commas are not where it ends: rather too much is taken away than too little.
        let ends = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '`' | '<' | '>');
        let end = rest[at..].find(ends).map_or(rest.len(), |length| at + length);
        let public = without_secrets(&rest[start..end]);
        changed |= matches!(public, Cow::Owned(_));
        out.push_str(&rest[..start]);
        out.push_str(&public);
        rest = &rest[end..];
    }
    if changed { Cow::Owned(out + rest) } else { Cow::Borrowed(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_do_not_show() {
        for (address, shown) in [
            ("https://u:p@host/a?type=Model&token=abc", "https://host/a?type=Model&token=***"),
            ("https://host/a?X-Amz-Signature=1&b", "https://host/a?X-Amz-Signature=***&b"),
            ("https://host/a?%74oken=abc", "https://host/a?%74oken=***"),
            ("https://host/a#frag", "https://host/a"),
            ("git@host:a/b", "host:a/b"),
            ("host:a@b", "host:a@b"),
            ("/srv/a@b", "/srv/a@b"),
            ("https://u:p@ho st/a", "https://ho st/a"),
            ("plain", "plain"),
        ] {
            assert_eq!(redact(address), shown, "{address}");
        }
        assert_eq!(
            redact_words("error sending request for url (https://h/c/k?sv=1&sig=abc), after 3 tries"),
            "error sending request for url (https://h/c/k?sv=1&sig=***), after 3 tries"
        );
    }

    #[test]
    fn a_lock_has_no_secrets_and_names_the_same_file() {
        assert!(has_secret("https://civitai.com/api/download/models/1?type=x&token=abc"));
        assert!(has_secret("https://user:pw@h/x"));
        assert!(!has_secret("https://h/x?type=token"));
        assert!(!has_secret("hf://o/r@v1/x"));
        for (text, public) in [
            ("https://u:pw@h/x?token=abc&b=1", "https://h/x?token=***&b=1"),
            // It may choose the file.
            ("https://h/x?key=abc", "https://h/x?key=abc"),
            ("civitai://models/1?token=abc", "civitai://models/1?token=***"),
            ("hf://o/r@v1/x", "hf://o/r@v1/x"),
            ("/a?token=b", "/a"),
        ] {
            assert_eq!(public_text(text), public);
        }
    }

    #[test]
    fn a_spec_that_is_made_has_no_secrets() {
        for (text, kept) in [
            ("https://x-access-token:ghp_1@github.com/o/r.git", "https://github.com/o/r.git"),
            ("https://h/x?token=abc", "https://h/x"),
            ("https://h/x?a=1&sig=abc&b=2", "https://h/x?a=1&b=2"),
            ("ssh://git:pw@h/o/r", "ssh://git@h/o/r"),
            ("git+https://tok@h/o/r@v1", "git+https://h/o/r@v1"),
            ("https://u:p@ho st/a", "https://ho st/a"),
            ("https://ho st/a?token=abc", "https://ho st/a"),
            ("HTTPS://tok@h/o/r", "https://h/o/r"),
            ("https://h/x#?access_token=abc", "https://h/x"),
            ("https://h/x?to=https://i/y?token=abc&b=1", "https://h/x?b=1"),
            ("https://h/x?b=1&to=https%3A%2F%2Fi%2Fy%3Ftoken%3Dabc", "https://h/x?b=1"),
            (
                "civitai://api/download/models/1?type=Model&token=abc",
                "civitai://api/download/models/1?type=Model",
            ),
        ] {
            assert_eq!(without_secrets(text), Cow::<str>::Owned(kept.to_owned()), "{text}");
            assert!(matches!(without_secrets(text), Cow::Owned(_)));
        }
        for (text, kept) in [
            (
                "[get it](https://h/x?a=1&token=abc), or\nhttps://me:pw@h/y. Both work",
                "[get it](https://h/x?a=1 or\nhttps://h/y. Both work",
            ),
            (r#"{"url": "https://h/x?token=abc", "n": 1}"#, r#"{"url": "https://h/x", "n": 1}"#),
            ("é://h?token=a b", "é://h b"),
            ("é https://h?token=a b", "é https://h/ b"),
        ] {
            assert_eq!(without_secrets_in(text), kept, "{text}");
        }
        for text in
            ["ssh://git@h/o/r", "git@h:o/r", "hf://o/r@v1/x", "https://h/a@b?type=token", "/a@b:c", "o/r"]
        {
            assert!(matches!(without_secrets(text), Cow::Borrowed(same) if same == text), "{text}");
        }
    }
}
