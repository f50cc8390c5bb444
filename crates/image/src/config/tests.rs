use serde_json::{Value, json};

use super::*;
use crate::digest::Digest;

fn read(document: &Value) -> Result<ImageConfig, ConfigError> {
    parse(document.to_string().as_bytes())
}

fn minimal() -> Value {
    json!({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": []}})
}

fn with_config(config: Value) -> Value {
    let mut document = minimal();
    document["config"] = config;
    document
}

#[test]
fn a_complete_config() {
    let ids = [Digest::sha256(b"a").to_string(), Digest::sha256(b"b").to_string()];
    let config = read(&json!({
        "created": "2024-01-01T00:00:00Z",
        "os": "linux", "architecture": "arm64", "variant": "v8",
        "config": {
            "User": "app:staff", "Env": ["PATH=/bin", "A=1=2"], "Entrypoint": ["/init"], "Cmd": ["-c", "x"],
            "WorkingDir": "/srv", "Volumes": {"/data": {}}, "ExposedPorts": {"80/tcp": {}}, "StopSignal": "SIGQUIT",
            "Labels": {"a": "b"}, "Healthcheck": {"Test": ["NONE"]}, "ArgsEscaped": true, "OnBuild": null
        },
        "rootfs": {"type": "layers", "diff_ids": ids},
        "history": [{"created_by": "ADD x"}, {"created_by": "CMD x", "empty_layer": true}],
    }))
    .unwrap();
    assert_eq!(config.platform.to_string(), "linux/arm64");
    assert_eq!(config.diff_ids[1].to_string(), ids[1]);
    assert_eq!(config.env, ["PATH=/bin", "A=1=2"]);
    assert_eq!(
        (config.entrypoint, config.cmd),
        (vec!["/init".to_owned()], vec!["-c".to_owned(), "x".to_owned()])
    );
    assert_eq!(config.user.as_deref(), Some("app:staff"));
    assert_eq!(config.working_dir.as_deref(), Some("/srv"));
    assert!(config.volumes.contains("/data") && config.exposed_ports.contains("80/tcp"));
    assert_eq!(config.stop_signal.as_deref(), Some("SIGQUIT"));
    assert_eq!(config.labels["a"], "b");
    assert!(!config.history[0].empty_layer && config.history[1].empty_layer);
}

#[test]
fn dockers_liberties() {
    let nulls = json!({"User": "", "Env": null, "Entrypoint": null, "Cmd": null, "WorkingDir": "", "Volumes": null,
        "ExposedPorts": null, "Labels": null, "StopSignal": null});
    let config = read(&with_config(nulls)).unwrap();
    assert!(config.env.is_empty() && config.cmd.is_empty() && config.volumes.is_empty());
    assert_eq!((config.user, config.working_dir, config.stop_signal), (None, None, None));
    for absent in [json!(null), json!({})] {
        assert_eq!(read(&with_config(absent)).unwrap().cmd, Vec::<String>::new());
    }

    let lower = json!({"env": ["A=1"], "cmd": ["x"], "workingDir": "/w", "user": "1"});
    let config = read(&with_config(lower)).unwrap();
    assert_eq!((config.env.len(), config.cmd.len()), (1, 1));
    assert_eq!((config.working_dir.as_deref(), config.user.as_deref()), (Some("/w"), Some("1")));

    let string = read(&with_config(json!({"Cmd": "echo hi"}))).unwrap();
    assert_eq!(string.cmd, ["echo hi"]);

    let mut document = minimal();
    document["rootfs"]["diff_ids"] = Value::Null;
    document["history"] = Value::Null;
    document.as_object_mut().unwrap().remove("os");
    assert_eq!(read(&document).unwrap().platform.to_string(), "linux/amd64");
}

#[test]
fn environment_entries() {
    let env = json!(["A=1", "NOVALUE", "B=", "A=2", "A="]);
    assert_eq!(read(&with_config(json!({"Env": env}))).unwrap().env, ["A=", "B="]);
}

#[test]
fn errors_name_the_part() {
    let set = |pointer: &str, value: Value| {
        let mut document = minimal();
        *document.pointer_mut(pointer).unwrap() = value;
        document
    };
    let table = [
        (set("/architecture", json!("")), "no architecture"),
        (set("/rootfs", Value::Null), "no rootfs"),
        (set("/rootfs/type", json!("squashfs")), "\"squashfs\""),
        (set("/rootfs/diff_ids", json!(["sha256:1"])), "diff ID 0"),
        (
            set("/rootfs/diff_ids", json!(vec![Digest::sha256(b"").to_string(); 501])),
            "501 layers, the limit is 500",
        ),
        (with_config(json!({"Env": ["=x"]})), "without a name"),
        (with_config(json!({"Env": ["A=\0"]})), "Env of the image config contains a NUL"),
        (with_config(json!({"Cmd": ["\0"]})), "Cmd"),
        (with_config(json!({"Cmd": 1})), "cannot be parsed"),
        (with_config(json!({"env": [], "Env": []})), "cannot be parsed"),
        (json!(1), "cannot be parsed"),
    ];
    for (document, wanted) in table {
        let error = read(&document).expect_err(wanted).to_string();
        assert!(error.contains(wanted), "{document}: {error}");
    }
    let large = vec![b' '; limits::CONFIG_BYTES as usize + 1];
    assert!(parse(&large).unwrap_err().to_string().contains("limit is 8388608"));
}

#[test]
fn manifest_and_config_must_have_the_same_layers() {
    let manifest = json!({
        "schemaVersion": 2,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": Digest::sha256(b"").to_string(), "size": 1},
        "layers": [],
    });
    let Ok(crate::Document::Manifest(manifest)) =
        crate::manifest::parse(manifest.to_string().as_bytes(), None)
    else {
        panic!()
    };
    let mut config = read(&minimal()).unwrap();
    assert!(check_layers(&manifest, &config).is_ok());
    config.diff_ids.push(DiffId(Digest::sha256(b"")));
    assert_eq!(
        check_layers(&manifest, &config).unwrap_err().to_string(),
        "the manifest lists 0 layers, the image config 1"
    );
}
