use super::*;

fn operations(launcher: Launcher, layers: usize) -> (usize, usize) {
    let total = predict(launcher, layers).total();
    (total.total(), total.host())
}

#[test]
fn the_incident_is_two_hundred_operations_a_container() {
    // Without the umounts of the removal: 2 x (1 + 50 + 50) and the few containerd adds.
    assert_eq!(operations(Launcher::Containerd(Release::LayerByLayer), 50), (208, 208));
    assert_eq!(operations(Launcher::Containerd(Release::CommonParent), 50), (14, 14));
    assert_eq!(operations(Launcher::Containerd(Release::CommonParent), 500), (14, 14));
    assert_eq!(operations(Launcher::Containerd(Release::DirectRead), 50), (6, 6));
    assert_eq!(operations(Launcher::Containerd(Release::V1_7), 50), (5, 5));
}

#[test]
fn ours_leave_the_hosts_table_alone() {
    for mechanism in Mechanism::AUTOMATIC {
        let (_, host) = operations(Launcher::Plywood { mechanism, passes: 1 }, 50);
        assert_eq!(host, 0, "{mechanism}");
    }
    let per_layer = Launcher::Plywood { mechanism: Mechanism::PerLayer, passes: 2 };
    assert_eq!(operations(per_layer, 50), (204, 202));
}

#[test]
fn the_table_for_fifty_layers() {
    insta::assert_snapshot!(Comparison::new(Mechanism::Detached, 1, 50));
}
