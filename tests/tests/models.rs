//! Where models come from, by the built `cvs`: hubs, mirrors, tokens, caches.

use cvs_tests::{Fault, HUB_COMMIT, Hub, Response};
use serde_json::{Value, json};

use crate::cli_world::{World, model, sha256};

/// Creates a version `v` with these models, through the hub.
fn create(world: &World, hub: &Hub, models: &Value) -> cvs_tests::CvsCommand {
    let core = world.core("v0.2.0");
    let models = models.to_string();
    world.cvs(&["create", "v", "--repo", &core, "--models", &models]).env("HF_ENDPOINT", hub.endpoint())
}

fn locked(world: &World) -> Value {
    world.cvs(&["show", "v", "--json"]).ok().json()["spec"]["lock"]["models"].clone()
}

/// No file below the home holds this text.
#[track_caller]
fn assert_nowhere(world: &World, secret: &str) {
    let output = world.env.command("grep").args(["-rlF", secret]).arg(world.env.home()).output();
    let found = String::from_utf8_lossy(&output.expect("running grep").stdout).into_owned();
    assert_eq!(found, "", "files that hold {secret}");
}

#[test]
fn a_model_of_the_hub_is_pinned_to_its_commit() {
    let (world, hub) = (World::new(), Hub::start());
    hub.large("o/r", "vae/x.safetensors", model());
    hub.gate("o/r", "hf_secret");
    let models = json!([{ "source": "hf://o/r/vae/x.safetensors" }]);
    let output = create(&world, &hub, &models).env("HF_TOKEN", "hf_secret").ok();
    assert!(!format!("{output}").contains("hf_secret"), "{output}");
    let lock = locked(&world);
    assert_eq!(
        (&lock[0]["path"], &lock[0]["source"], &lock[0]["revision"], &lock[0]["sha256"]),
        (
            &json!("models/vae/x.safetensors"),
            &json!("hf://o/r/vae/x.safetensors"),
            &json!(HUB_COMMIT),
            &json!(sha256(&model()))
        )
    );
    assert_nowhere(&world, "hf_secret");
    world.cvs(&["validate", "v"]).ok();

    // What is gone comes back by the commit, whatever the branch names by then.
    std::fs::remove_file(world.model_object("v")).expect("removing an object");
    hub.web.forget_requests();
    let lock = world.cvs(&["lock", "v"]).env("HF_ENDPOINT", hub.endpoint());
    lock.env("HF_TOKEN", "hf_secret").ok();
    let asked: Vec<String> = hub.web.requests().iter().map(|r| format!("{} {}", r.method, r.path)).collect();
    let path = format!("/o/r/resolve/{HUB_COMMIT}/vae/x.safetensors");
    assert_eq!(asked, [format!("HEAD {path}"), format!("GET {path}")]);
    world.cvs(&["validate", "v", "--deep"]).ok();
}

#[test]
fn who_is_not_let_in_is_told_where_the_door_is() {
    let (world, hub) = (World::new(), Hub::start());
    hub.large("o/r", "vae/x.safetensors", model());
    hub.gate("o/r", "hf_secret");
    let models = json!([{ "source": "hf://o/r/vae/x.safetensors" }]);
    let url = hub.web.url("/o/r");
    let refused = format!("{url}/resolve/main/vae/x.safetensors: access refused");
    let hint = format!(
        "look at {url} with your account, accept what it asks for, and set HF_TOKEN to a token of that account\n"
    );
    for (token, says) in [
        ("", "(HTTP 401): its conditions are to be accepted first; no token was sent\n"),
        (
            "hf_wrong",
            "(HTTP 403): its conditions are to be accepted first; the token that was sent does not open it\n",
        ),
    ] {
        let output = create(&world, &hub, &models).env("HF_TOKEN", token).code(1);
        assert!(output.stderr.contains(&format!("{refused} {says}")), "{output}");
        assert!(output.stderr.ends_with(&hint), "{output}");
        assert!(!output.stderr.contains("hf_wrong"), "{output}");
    }
    let output = create(&world, &hub, &models).env("HF_ENDPOINT", "nowhere").code(1);
    assert!(
        output.stderr.contains("HF_ENDPOINT is \"nowhere\", and must be an http or https address"),
        "{output}"
    );
}

#[test]
fn the_cache_of_the_hubs_own_program_spares_the_download() {
    let (world, hub) = (World::new(), Hub::start());
    hub.large("o/r", "vae/x.safetensors", model());
    let blob = format!("home/.cache/huggingface/hub/models--o--r/blobs/{}", sha256(&model()));
    let blob = world.env.write(blob, model());
    let output = create(&world, &hub, &json!([{ "source": "hf://o/r/vae/x.safetensors" }])).ok();
    let says = format!("model models/vae/x.safetensors: found in {}\n", blob.display());
    assert!(output.stderr.contains(&says), "{output}");
    assert_eq!(hub.cdn.requests().len(), 0);
    // It is read, and nothing else.
    assert_eq!(std::fs::read(&blob).expect("reading the cache"), model());
    assert_eq!(locked(&world)[0]["revision"], HUB_COMMIT);
}

#[test]
fn mirrors_are_tried_in_order_and_have_one_content() {
    let (world, hub) = (World::new(), Hub::start());
    let (gone, other) = (world.web.url("/gone.safetensors"), world.web.url("/other.safetensors"));
    world.web.serve("/other.safetensors", b"other".to_vec());
    let good = world.web.url("/a.safetensors");
    let models = json!([{
        "sources": [gone, "hf://o/r/a.safetensors", other, good],
        "target_path": "models/vae/a.safetensors",
        "checksum": sha256(&model()),
    }]);
    let output = create(&world, &hub, &models).ok();
    let tried: Vec<&str> = output.stderr.lines().filter(|line| line.contains("trying its next")).collect();
    assert_eq!(tried.len(), 3, "{output}");
    assert!(tried[0].contains("/gone.safetensors: not found (HTTP 404)"), "{output}");
    assert_eq!(locked(&world)[0]["source"], good);
    // Whichever answered, the lock answers the list, and its order.
    assert!(world.cvs(&["lock", "v", "--locked"]).ok().stderr.contains("up to date"));

    // With none left, all reasons are told; the content of the lock still counts.
    std::fs::remove_file(world.model_object("v")).expect("removing an object");
    world.web.serve("/a.safetensors", b"changed".to_vec());
    let output = world.cvs(&["lock", "v"]).env("HF_ENDPOINT", hub.endpoint()).code(1);
    for says in [
        "models[0].source: none of its 4 sources has it\n",
        "/gone.safetensors: not found (HTTP 404)\n",
        "/o/r/resolve/main/a.safetensors: access refused (HTTP 401); no token was sent\n",
        "/other.safetensors: size mismatch: expected ",
        "/a.safetensors: size mismatch: expected ",
    ] {
        assert!(output.stderr.contains(says), "{says}: {output}");
    }
}

#[test]
fn a_password_in_an_address_goes_into_no_lock_and_no_message() {
    let world = World::new();
    let secret = world.web.url("/a.safetensors?a=1&token=secret-word");
    world.web.fault("/a.safetensors", Fault::FlipByte(0));
    let target = format!("{secret}=models/vae/a.safetensors");
    let core = world.core("v0.2.0");
    let checksum = json!([{
        "source": secret, "target_path": "models/vae/a.safetensors", "checksum": sha256(&model())
    }]);
    let output =
        world.cvs(&["create", "v", "--repo", &core, "--models", &checksum.to_string(), "-vv"]).code(1);
    assert!(output.stderr.contains("?a=1&token=***: sha256 mismatch"), "{output}");
    assert!(!output.stderr.contains("secret-word"), "{output}");
    world.web.heal("/a.safetensors");
    world.cvs(&["create", "v", "--repo", &core, "--model", &target]).ok();
    assert_eq!(locked(&world)[0]["source"], world.web.url("/a.safetensors?a=1&token=***"));
    assert!(world.cvs(&["lock", "v", "--locked"]).ok().stderr.contains("up to date"));
    assert!(world.web.requests_of("/a.safetensors").iter().all(|r| r.query == "a=1&token=secret-word"));
}

#[test]
fn a_model_of_civitai_is_chosen_by_its_api() {
    let (world, hub) = (World::new(), Hub::start());
    let file = |name: &str, primary: bool, url: String| {
        json!({
            "name": name, "type": "Model", "primary": primary, "metadata": {"format": "SafeTensor"},
            "hashes": {"SHA256": sha256(&model())}, "downloadUrl": url,
        })
    };
    let answer = json!({"id": 7, "modelVersions": [
        {"id": 12, "modelId": 7, "files": [file("x.safetensors", true, world.web.url("/a.safetensors"))]},
    ]});
    let one = answer["modelVersions"][0].clone();
    world.web.route("/api/v1/models/7", move |_| Response::json(&answer));
    world.web.route("/api/v1/model-versions/12", move |_| Response::json(&one));
    let models = json!([{ "source": "civitai://models/7", "target_path": "models/loras/x.safetensors" }]);
    let output = create(&world, &hub, &models).env("CIVITAI_ENDPOINT", world.web.url("")).ok();
    assert!(output.stderr.contains("created v"), "{output}");
    assert_eq!(
        (&locked(&world)[0]["revision"], &locked(&world)[0]["sha256"]),
        (&json!("12"), &json!(sha256(&model())))
    );
    let output =
        create(&world, &hub, &json!([{ "source": "civitai://models/8", "target_path": "models/y" }]))
            .arg("--force")
            .env("CIVITAI_ENDPOINT", world.web.url(""))
            .code(1);
    assert!(output.stderr.contains("/api/v1/models/8: not found (HTTP 404)"), "{output}");
}
