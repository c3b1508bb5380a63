//! The sample specs and lists: the good ones are read as they are and written back byte by byte, the bad ones are
//! refused with every reason.

use std::fs;
use std::path::{Path, PathBuf};

use cvs_versions::spec::{Checksum, ReadOptions, Revision, SpecDocument, VersionId, inputs};
use cvs_versions::{Origin, SpecError};

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn parse(name: &str, options: ReadOptions) -> Result<SpecDocument, SpecError> {
    let path = file(name);
    let id = VersionId::new(path.file_stem().unwrap().to_str().unwrap()).unwrap();
    SpecDocument::parse(
        fs::read_to_string(&path).unwrap(),
        Origin::Named(name.to_owned()),
        Some(&id),
        options,
    )
}

fn warnings(document: &SpecDocument) -> Vec<String> {
    document.warnings().iter().map(ToString::to_string).collect()
}

#[test]
fn every_example_is_valid_and_is_written_back_byte_by_byte() {
    let mut seen = Vec::new();
    for entry in fs::read_dir(file("examples")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            continue;
        }
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let mut document = parse(&format!("examples/{name}"), ReadOptions::default()).unwrap();
        document.edit(|_| {}).unwrap();
        assert_eq!(document.text(), fs::read_to_string(&path).unwrap());
        seen.push(name);
    }
    seen.sort();
    assert_eq!(seen, ["demo.json", "everything.json", "test-ver.json", "wan22-fast.json"]);
}

#[test]
fn the_large_sample_is_read_whole() {
    let document = parse("examples/wan22-fast.json", ReadOptions::default()).unwrap();
    let spec = document.spec();
    assert_eq!(spec.comfy.revision, Revision::Commit("196954ab8c55bc4ac48113686a57ce250677c7b5".to_owned()));
    assert_eq!(spec.python.version.as_deref(), Some("python3.11"));
    assert_eq!(spec.env, [("COMFY_PYTHON".to_owned(), "python3.11".to_owned())]);
    assert_eq!(spec.python_packages, ["Pillow", "sageattention", "onnx", "onnxruntime-gpu"]);
    let nodes: Vec<String> = spec.custom_nodes.iter().map(|n| format!("{} {}", n.path, n.revision)).collect();
    assert_eq!(
        nodes,
        [
            "custom_nodes/was-node-suite-comfyui e3bce1376bce1c1d4ac0d5d0ce8beafccfb67fd5",
            "custom_nodes/comfyui-wan-video 37365817e82c3d6057fcb0a5d7f952f7376f096a",
            "custom_nodes/ComfyUI-VideoHelperSuite f54d0d102d0b6f3a9e08b07117fae8b9d189219d",
            "custom_nodes/ComfyUI-Frame-Interpolation main",
            "custom_nodes/ComfyUI-Easy-Use main",
            "custom_nodes/RES4LYF main",
            "custom_nodes/ComfyUI_essentials main",
        ]
    );
    // 16 entries, of which two say by https:// what two others say by hf://.
    assert_eq!(spec.models.len(), 14);
    assert!(spec.custom_nodes.iter().all(|node| node.install_requirements));
    let target = "models/diffusion_models/wan2.2_t2v";
    assert_eq!(
        warnings(&document),
        [
            "custom_nodes[3].commit: \"main\" is not a whole commit id; it is taken as a ref and pinned in the lock"
                .to_owned(),
            "custom_nodes[4].commit: \"main\" is not a whole commit id; it is taken as a ref and pinned in the lock"
                .to_owned(),
            "custom_nodes[5].commit: \"main\" is not a whole commit id; it is taken as a ref and pinned in the lock"
                .to_owned(),
            "custom_nodes[6].commit: \"main\" is not a whole commit id; it is taken as a ref and pinned in the lock"
                .to_owned(),
            format!(
                "models[13]: the same model as models[5], for {target}_high_noise_14B_fp8_scaled.safetensors; \
                 one of the two is enough"
            ),
            format!(
                "models[14]: the same model as models[6], for {target}_low_noise_14B_fp8_scaled.safetensors; \
                 one of the two is enough"
            ),
        ]
    );
}

#[test]
fn every_field_is_read() {
    let document = parse("examples/everything.json", ReadOptions::default()).unwrap();
    let spec = document.spec();
    assert_eq!(warnings(&document), [""; 0]);
    assert_eq!(spec.comfy.revision, Revision::Name("v0.3.64".to_owned()));
    let nodes: Vec<_> =
        spec.custom_nodes.iter().map(|n| (n.path.to_string(), n.install_requirements)).collect();
    assert_eq!(
        nodes,
        [
            ("custom_nodes/ComfyUI-VideoHelperSuite".to_owned(), true),
            ("custom_nodes/Wav2Lip".to_owned(), false)
        ]
    );
    let models: Vec<String> = spec.models.iter().map(|m| format!("{} <- {}", m.path, m.source)).collect();
    assert_eq!(
        models,
        [
            "models/vae/wan_2.1_vae.safetensors <- \
             hf:Comfy-Org/Wan_2.2_ComfyUI_Repackaged@main:split_files/vae/wan_2.1_vae.safetensors",
            "models/loras/wan_lora.safetensors <- civitai:1996092?format=SafeTensor&type=Model",
            "models/upscale_models/upscaler.pth <- file:/srv/models/upscaler.pth",
            "custom_nodes/Wav2Lip/Wav2Lip/checkpoints/wav2lip_gan.pth <- \
             hf:spaces/capstonedubtrack/Indiclanguagedubbing@416598a2eefa2f1b02bea859bda45f18208a53cb:wav2lip_gan.pth",
        ]
    );
    assert!(matches!(spec.models[0].checksums[..], [Checksum::Sha256(_)]));
    assert_eq!(spec.python.version.as_deref(), Some("3.12"));
    assert_eq!(spec.python.index_url.as_deref(), Some("https://packages.example.com/simple"));
    assert_eq!(spec.python.extra_index_urls, ["https://wheels.example.com/simple"]);
    assert_eq!(spec.python.torch_backend.as_deref(), Some("auto"));
    assert_eq!(spec.directories.output.as_deref(), Some(std::path::Path::new("/srv/comfy/output")));
    assert_eq!((&spec.directories.user, &spec.directories.temp), (&None, &None));
    assert_eq!(spec.python_packages, ["onnxruntime-gpu==1.23.0"]);
    assert_eq!(spec.env, [("HF_HUB_OFFLINE".to_owned(), "1".to_owned())]);
    assert_eq!((spec.offline, spec.skip_models), (false, false));
    assert_eq!(spec.workflow, Some("workflows/default.json".into()));
    assert_eq!(spec.args, ["--disable-auto-launch"]);
    assert_eq!(spec.lock, None);
}

#[test]
fn the_bad_samples_are_refused_with_every_reason() {
    let error = parse("tests/data/vibe-voice.json", ReadOptions::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "tests/data/vibe-voice.json: 2 problems\n  \
         version_id: found \"wan22-fast\"; expected \"vibe-voice\", the name of its file; write that, or rename the \
         file to wan22-fast.json\n  \
         models[0].source: found nothing; expected `https://…`, `http://…`, `hf://ORG/REPO/PATH`, `civitai://…`, \
         `s3://…`, `gs://…`, `az://…`, \
         `file://…` or an absolute path"
    );
    let error = parse("tests/data/wan22-fast.json", ReadOptions::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "tests/data/wan22-fast.json: python_packages[0]: found \"--force-reinstall\"; expected a requirement such as \
         `name==1.2`; leave `--force-reinstall` out: an environment is always built anew"
    );
    let document = parse("tests/data/wan22-fast.json", ReadOptions { lenient: true }).unwrap();
    assert_eq!(document.spec().python_packages, ["Pillow", "sageattention", "onnx", "onnxruntime-gpu"]);
    assert_eq!(
        warnings(&document).last().unwrap(),
        "python_packages[0]: dropped \"--force-reinstall\", an option of pip"
    );
}

#[test]
fn lists_are_read_from_json_and_yaml() {
    let cwd = file("examples/lists");
    let nodes = |name: &str| inputs::read_nodes(name, &cwd).unwrap().len();
    let models = |name: &str| inputs::read_models(name, &cwd).unwrap();
    assert_eq!([nodes("default_nodes.json"), nodes("vibevoice.json"), nodes("wan_nodes.json")], [9, 2, 2]);
    assert_eq!(models("flux-models.yml").len(), 3);
    assert_eq!(
        models("vibevoice.yml")[0]["target_path"],
        "$COMFY_HOME/custom_nodes/Wav2Lip/Wav2Lip/checkpoints/wav2lip_gan.pth"
    );
    // A whole spec is a list of its nodes, or of its models.
    assert_eq!((nodes("../wan22-fast.json"), models("../wan22-fast.json").len()), (7, 16));
}
