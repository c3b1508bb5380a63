//! What servers and strangers' repositories say, each as a function of bytes and without a network: what is made of it is
//! where something will be fetched from. Fuzzing enters here, and nothing else does.

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use url::Url;

use super::digest::Expected;
use super::hosts::Hosts;
use super::{civitai, git, hub, registry};

/// Who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The Registry, of a version of a node.
    RegistryVersion,
    /// The Registry, of a node: where its repository is.
    RegistryNode,
    /// Civitai, of a model or a version of one.
    Civitai,
    /// The batch API of Git LFS.
    Lfs,
}

/// Where an answer of a host that was asked over https leads.
pub fn addresses(answer: Answer, body: &[u8]) -> Vec<String> {
    let Ok(asked) = Url::parse("https://host.invalid/nodes/x/install?version=1.0.0") else {
        return Vec::new();
    };
    let json = || serde_json::from_slice::<serde_json::Value>(body).ok();
    match answer {
        Answer::RegistryVersion => {
            let any = registry::version_of(body, &asked, None).map(|found| found.url);
            let one = registry::version_of(body, &asked, Some("1.0.0")).map(|found| found.url);
            any.into_iter().chain(one).collect()
        }
        Answer::RegistryNode => registry::repository_of(body).ok().flatten().into_iter().collect(),
        Answer::Civitai => {
            let (Some(json), Ok(hosts)) = (json(), Hosts::from_env()) else { return Vec::new() };
            let queries = ["", "type=Model&format=SafeTensor"];
            let found = queries.iter().flat_map(|query| civitai::addresses(&json, query, &hosts));
            found.map(String::from).collect()
        }
        Answer::Lfs => {
            let Some(json) = json() else { return Vec::new() };
            git::lfs_addresses(&json, &asked, [0; 32]).into_iter().map(String::from).collect()
        }
    }
}

/// The sha256 and the size that a file of the hub must have after these headers, `name: value` on a line each, where
/// `sha256` is asked for; none where they contradict that.
pub fn hub(headers: &[u8], sha256: Option<[u8; 32]>) -> Option<(Option<[u8; 32]>, Option<u64>)> {
    let mut map = HeaderMap::new();
    for line in headers.split(|&byte| byte == b'\n') {
        let mut parts = line.splitn(2, |&byte| byte == b':');
        let (Some(name), Some(value)) = (parts.next(), parts.next()) else { continue };
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name), HeaderValue::from_bytes(value.trim_ascii()))
        {
            map.insert(name, value);
        }
    }
    let expected = hub::expected_of(&map, &Expected { sha256, ..Expected::default() }).ok()?;
    Some((expected.sha256, expected.size))
}

/// Where the submodules and LFS objects of a repository at `base` are, whose `.gitmodules`, `.lfsconfig`,
/// `.gitattributes` and pointers all are these bytes.
pub fn repository(bytes: &[u8], base: &str) -> Vec<String> {
    git::addresses(bytes, base)
}
