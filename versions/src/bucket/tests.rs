//! Uploads to servers that speak as the two do: names and bytes, parts, signatures, refusals.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use cvs_tests::{HttpServer, Request, Response};
use object_store::BackoffConfig;
use sha2::{Digest, Sha256};

use super::*;

const KEY: &str = "AKIDEXAMPLE";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

type Objects = Arc<Mutex<BTreeMap<String, (String, Vec<u8>)>>>;

#[test]
fn addresses_are_divided() {
    for (address, parts) in [
        ("s3://bucket", Some(("s3", "bucket", ""))),
        ("gs://b/a/c/", Some(("gs", "b", "a/c/"))),
        ("s3:///x", None),
        ("http://b/x", None),
        ("bucket/x", None),
    ] {
        assert_eq!(divide(address), parts, "{address}");
    }
}

fn hmac(key: &[u8], text: &[u8]) -> Vec<u8> {
    let mut block = [0u8; 64];
    block[..key.len()].copy_from_slice(key);
    let pad = |byte: u8| block.map(|b| b ^ byte);
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(text).finalize();
    Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether a request is signed as "Signature Version 4" says, by [`SECRET`].
fn is_signed(request: &Request) -> bool {
    let header = |name: &str| request.header(name).unwrap_or_default();
    let authorization = header("authorization").replace(", ", ",");
    let field = |name: &str| {
        let found = authorization.split([' ', ',']).find_map(|part| part.strip_prefix(name));
        found.unwrap_or_default().to_owned()
    };
    let scope = field("Credential=");
    let signed = field("SignedHeaders=");
    let mut query: Vec<&str> = request.query.split('&').filter(|part| !part.is_empty()).collect();
    query.sort_unstable();
    let query: Vec<String> = query
        .iter()
        .map(|part| if part.contains('=') { (*part).to_owned() } else { format!("{part}=") })
        .collect();
    let headers: String = signed.split(';').map(|name| format!("{name}:{}\n", header(name))).collect();
    let canonical = format!(
        "{}\n{}\n{}\n{headers}\n{signed}\n{}",
        request.method,
        request.path,
        query.join("&"),
        header("x-amz-content-sha256")
    );
    let parts: Vec<&str> = scope.split('/').collect();
    let [key, date, region, service, end] = parts.as_slice() else { return false };
    let to_sign = format!(
        "AWS4-HMAC-SHA256\n{}\n{date}/{region}/{service}/{end}\n{}",
        header("x-amz-date"),
        hex(&Sha256::digest(canonical))
    );
    let secret = [date, region, service, end]
        .iter()
        .fold(format!("AWS4{SECRET}").into_bytes(), |key, part| hmac(&key, part.as_bytes()));
    let body_is_meant = header("x-amz-content-sha256") == hex(&Sha256::digest(&request.body));
    *key == KEY && body_is_meant && field("Signature=") == hex(&hmac(&secret, to_sign.as_bytes()))
}

/// A bucket with parts; the objects in it are seen from outside.
fn amazon_server() -> (HttpServer, Objects) {
    let server = HttpServer::start();
    let objects = Objects::default();
    let parts: Objects = Objects::default();
    let seen = Arc::clone(&objects);
    server.route("/bucket/", move |request| {
        if !is_signed(request) {
            return Response::new(403, "<Error><Code>SignatureDoesNotMatch</Code></Error>");
        }
        let kind = request.header("content-type").unwrap_or_default().to_owned();
        let key = request.path.trim_start_matches("/bucket/").to_owned();
        match (request.method.as_str(), request.query.as_str()) {
            ("PUT", "") => {
                seen.lock().unwrap().insert(key, (kind, request.body.clone()));
                Response::new(200, "").header("ETag", "\"e\"")
            }
            ("POST", "uploads=" | "uploads") => {
                *parts.lock().unwrap() = BTreeMap::from([("kind".to_owned(), (kind, Vec::new()))]);
                Response::new(
                    200,
                    "<InitiateMultipartUploadResult><Bucket>bucket</Bucket><Key>k</Key><UploadId>U1</UploadId>\
                     </InitiateMultipartUploadResult>",
                )
            }
            ("PUT", query) => {
                let number = query.split('&').find_map(|part| part.strip_prefix("partNumber=")).unwrap();
                let name = format!("part {:04}", number.parse::<u32>().unwrap());
                parts.lock().unwrap().insert(name, (String::new(), request.body.clone()));
                Response::new(200, "").header("ETag", &format!("\"{number}\""))
            }
            ("POST", _) => {
                let parts = parts.lock().unwrap();
                let whole = parts.iter().filter(|(name, _)| name.starts_with("part")).flat_map(|(_, (_, b))| b.clone());
                seen.lock().unwrap().insert(key, (parts["kind"].0.clone(), whole.collect()));
                Response::new(
                    200,
                    "<CompleteMultipartUploadResult><ETag>e</ETag></CompleteMultipartUploadResult>",
                )
            }
            ("DELETE", _) => Response::new(204, ""),
            _ => Response::new(405, ""),
        }
    });
    (server, objects)
}

fn amazon_bucket(server: &HttpServer, secret: &str) -> Bucket {
    let builder = AmazonS3Builder::new()
        .with_bucket_name("bucket")
        .with_endpoint(server.url(""))
        .with_region("somewhere-1")
        .with_access_key_id(KEY)
        .with_secret_access_key(secret);
    let access = Access::amazon(builder, client(), retry()).unwrap();
    Bucket { access, root: "s3://bucket".to_owned(), prefix: Path::from("a/b") }
}

/// A file of so many bytes, no two parts of which are alike.
fn file(dir: &tempfile::TempDir, size: usize) -> (std::path::PathBuf, Vec<u8>) {
    let bytes: Vec<u8> = (0..size).map(|i| (i / 7 % 251) as u8).collect();
    let path = dir.path().join("file");
    std::fs::write(&path, &bytes).unwrap();
    (path, bytes)
}

#[test]
fn files_arrive_whole_and_signed() {
    let (server, objects) = amazon_server();
    let bucket = amazon_bucket(&server, SECRET);
    let dir = tempfile::tempdir().unwrap();
    let never = AtomicBool::new(false);
    for (name, size, kind) in [
        ("v/run/small.png", 1000, "image/png"),
        ("v/run/empty.json", 0, "application/json"),
        ("v/run/large.mp4", 2 * PART + 12345, "video/mp4"),
        ("v/run/even", 2 * PART, "application/octet-stream"),
    ] {
        let (path, bytes) = file(&dir, size);
        let sent = Mutex::new(0);
        let url = bucket.put_file(name, &path, &|more| *sent.lock().unwrap() += more, &never).unwrap();
        assert_eq!(url, format!("s3://bucket/a/b/{name}"));
        assert_eq!(*sent.lock().unwrap(), size as u64, "{name}");
        let objects = objects.lock().unwrap();
        let (found_kind, found) = &objects[&format!("a/b/{name}")];
        assert_eq!(found_kind, kind, "{name}");
        assert!(*found == bytes, "{name}: {} bytes arrived, of {size}", found.len());
    }
    bucket.put("run.json", b"{}".to_vec()).unwrap();
    assert_eq!(objects.lock().unwrap()["a/b/run.json"].1, b"{}");
    assert_eq!(bucket.to_string(), "s3://bucket/a/b");
}

#[test]
fn refusals_and_cancels_are_told_and_aborted() {
    let (server, objects) = amazon_server();
    let dir = tempfile::tempdir().unwrap();
    let never = AtomicBool::new(false);
    let (small, _) = file(&dir, 10);
    let error = amazon_bucket(&server, "not the secret").put_file("x", &small, &|_| (), &never).unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with("cannot write s3://bucket/a/b/x: ") && text.contains("SignatureDoesNotMatch"),
        "{text}"
    );

    let cancel = AtomicBool::new(false);
    let (large, _) = file(&dir, 3 * PART);
    let stop = |_| cancel.store(true, Ordering::Relaxed);
    let error = amazon_bucket(&server, SECRET).put_file("y", &large, &stop, &cancel).unwrap_err();
    assert!(matches!(error, BucketError::Cancelled), "{error}");
    let aborted = server.requests().iter().any(|request| request.method == "DELETE");
    assert!(aborted, "the upload was not aborted");
    assert!(objects.lock().unwrap().is_empty());

    let missing = dir.path().join("missing");
    let error = amazon_bucket(&server, SECRET).put_file("z", &missing, &|_| (), &never).unwrap_err();
    assert!(matches!(error, BucketError::Read { .. }), "{error}");
}

#[test]
fn a_server_that_is_busy_is_asked_again() {
    let (server, objects) = amazon_server();
    let builder = AmazonS3Builder::new()
        .with_bucket_name("bucket")
        .with_endpoint(server.url(""))
        .with_access_key_id(KEY)
        .with_secret_access_key(SECRET);
    let retry = RetryConfig {
        backoff: BackoffConfig { init_backoff: Duration::from_millis(1), ..BackoffConfig::default() },
        ..retry()
    };
    let access = Access::amazon(builder, client(), retry).unwrap();
    let bucket = Bucket { access, root: "s3://bucket".to_owned(), prefix: Path::default() };
    server.fault_times("/bucket/x", 2, cvs_tests::Fault::Status(503, Vec::new()));
    assert_eq!(bucket.put("x", b"bytes".to_vec()).unwrap(), "s3://bucket/x");
    assert_eq!(objects.lock().unwrap()["x"].1, b"bytes");
}

#[test]
fn google_gets_the_same_files() {
    let server = HttpServer::start();
    let objects = Objects::default();
    let seen = Arc::clone(&objects);
    server.route("/bucket/", move |request| {
        let kind = request.header("content-type").unwrap_or_default().to_owned();
        let key = request.path.trim_start_matches("/bucket/").to_owned();
        match request.method.as_str() {
            "PUT" => {
                seen.lock().unwrap().insert(key, (kind, request.body.clone()));
                Response::new(200, "").header("ETag", "\"e\"")
            }
            _ => Response::new(405, ""),
        }
    });
    let key = serde_json::json!({
        "gcs_base_url": server.url(""), "disable_oauth": true, "client_email": "", "private_key": "",
        "private_key_id": ""
    });
    let builder =
        GoogleCloudStorageBuilder::new().with_bucket_name("bucket").with_service_account_key(key.to_string());
    let access = Access::google(builder, client(), retry()).unwrap();
    let bucket = Bucket { access, root: "gs://bucket".to_owned(), prefix: Path::from("p") };
    let dir = tempfile::tempdir().unwrap();
    let (path, bytes) = file(&dir, 5000);
    let url = bucket.put_file("v/run/a.png", &path, &|_| (), &AtomicBool::new(false)).unwrap();
    assert_eq!(url, "gs://bucket/p/v/run/a.png");
    assert_eq!(objects.lock().unwrap()["p/v/run/a.png"], ("image/png".to_owned(), bytes));
}
