//! Addresses fit for messages: without user information, and without the values of query keys that carry secrets.

use url::Url;

/// Parts of a query key's name that mark its value as a secret, in lower case.
const SECRET: [&str; 7] = ["token", "key", "secret", "signature", "credential", "password", "auth"];

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
    // Both fail only for addresses that cannot have user information in the first place.
    let _ = shown.set_username("");
    let _ = shown.set_password(None);
    shown.set_fragment(None);
    if let Some(query) = url.query() {
        let parts: Vec<String> = query
            .split('&')
            .map(|part| match part.split_once('=') {
                Some((name, _)) if is_secret(name) => format!("{name}=***"),
                _ => part.to_owned(),
            })
            .collect();
        shown.set_query(Some(&parts.join("&")));
    }
    shown.to_string()
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name == "sig" || SECRET.iter().any(|part| name.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_do_not_show() {
        for (address, shown) in [
            ("https://u:p@host/a?type=Model&token=abc", "https://host/a?type=Model&token=***"),
            ("https://host/a?X-Amz-Signature=1&b", "https://host/a?X-Amz-Signature=***&b"),
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
}
