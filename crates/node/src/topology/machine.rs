//! The processor's own words, and whether there is a hypervisor below.

use super::{Processor, SysTree, Virtualised};

const CPU: &str = "/sys/devices/system/cpu";

/// Vendors in the firmware's tables that are hypervisors, and what people call them.
const HYPERVISORS: [(&str, &str); 8] = [
    ("QEMU", "QEMU"),
    ("VMware", "VMware"),
    ("Xen", "Xen"),
    ("innotek", "VirtualBox"),
    ("OpenStack", "OpenStack"),
    ("Google", "Google Compute Engine"),
    ("Parallels", "Parallels"),
    ("Red Hat", "KVM"),
];

/// Arm's names for its server cores, by the part number of its own implementer code 0x41.
const ARM_PARTS: [(&str, &str); 7] = [
    ("0xd08", "Cortex-A72"),
    ("0xd0c", "Neoverse-N1"),
    ("0xd40", "Neoverse-V1"),
    ("0xd49", "Neoverse-N2"),
    ("0xd4f", "Neoverse-V2"),
    ("0xd84", "Neoverse-V3"),
    ("0xd8e", "Neoverse-N3"),
];

pub(super) fn processor(tree: &SysTree) -> Processor {
    let (vendor, model) = match (cpuinfo(tree, "CPU implementer"), cpuinfo(tree, "CPU part")) {
        (Some(implementer), Some(part)) => arm(implementer, part),
        _ => (None, None),
    };
    // Kernels write that word where the processor gives no name.
    let text = |key| cpuinfo(tree, key).filter(|name| *name != "unknown").map(str::to_owned);
    let cpus = || tree.numbers(&format!("{CPU}/cpu")).into_iter();
    let largest =
        |file: &str| cpus().filter_map(|n| tree.parse::<u32>(&format!("{CPU}/cpu{n}/{file}"))).max();
    let no_turbo = tree.get(&format!("{CPU}/intel_pstate/no_turbo"));
    let boost = match (tree.get(&format!("{CPU}/cpufreq/boost")), no_turbo) {
        (Some("1"), _) | (_, Some("0")) => Some(true),
        (Some("0"), _) | (_, Some("1")) => Some(false),
        _ => None,
    };
    Processor {
        vendor: text("vendor_id").or(vendor),
        model: text("model name").or(model),
        // cpufreq counts in kHz, the firmware's table in MHz.
        base_mhz: largest("cpufreq/base_frequency")
            .map(|khz| khz / 1000)
            .or_else(|| largest("acpi_cppc/nominal_freq"))
            .filter(|mhz| *mhz > 0),
        max_mhz: largest("cpufreq/cpuinfo_max_freq").map(|khz| khz / 1000),
        boost,
    }
}

fn arm(implementer: &str, part: &str) -> (Option<String>, Option<String>) {
    let name = ARM_PARTS.iter().find(|(number, _)| *number == part).map(|(_, name)| *name);
    match (implementer, name) {
        ("0x41", Some(name)) => (Some("ARM".to_owned()), Some(name.to_owned())),
        ("0x41", None) => (Some("ARM".to_owned()), Some(format!("part {part}"))),
        _ => (Some(format!("implementer {implementer}")), Some(format!("part {part}"))),
    }
}

pub(super) fn virtualised(tree: &SysTree) -> Virtualised {
    let firmware = firmware(tree);
    let by = || match &firmware {
        Some((name, true)) => Some(name.clone()),
        _ => tree.get("/sys/hypervisor/type").map(str::to_owned),
    };
    let flags = cpuinfo(tree, "flags");
    let has_flag = flags.map(|flags| flags.split_ascii_whitespace().any(|flag| flag == "hypervisor"));
    match (has_flag, &firmware) {
        (Some(true), _) => {
            Virtualised::Yes { by: by(), how: "flag `hypervisor` in /proc/cpuinfo".to_owned() }
        }
        (_, Some((name, true))) => {
            Virtualised::Yes { by: Some(name.clone()), how: "the firmware names it".to_owned() }
        }
        (Some(false), _) => Virtualised::No { how: "no flag `hypervisor` in /proc/cpuinfo".to_owned() },
        (None, Some((name, false))) => Virtualised::No { how: format!("the firmware says {name}") },
        (None, None) => Virtualised::Unknown,
    }
}

/// Who made the machine by its firmware's tables, and whether that is a hypervisor; None if one cannot tell.
fn firmware(tree: &SysTree) -> Option<(String, bool)> {
    let vendor = tree.get("/sys/class/dmi/id/sys_vendor")?;
    let product = tree.get("/sys/class/dmi/id/product_name").unwrap_or_default();
    // EC2 names the instance type; bare metal ones have it in their name: r5.metal, m7i.metal-24xl.
    if vendor == "Amazon EC2" {
        return Some(match product.contains(".metal") {
            true => (format!("Amazon EC2 {product}"), false),
            false => ("Amazon EC2".to_owned(), true),
        });
    }
    if vendor == "Microsoft Corporation" && product == "Virtual Machine" {
        return Some(("Hyper-V".to_owned(), true));
    }
    let known = HYPERVISORS.iter().find(|(prefix, _)| vendor.starts_with(prefix));
    known.map(|(_, name)| ((*name).to_owned(), true))
}

fn cpuinfo<'a>(tree: &'a SysTree, key: &str) -> Option<&'a str> {
    let value = |line: &'a str| {
        let (found, value) = line.split_once(':')?;
        (found.trim() == key && !value.trim().is_empty()).then(|| value.trim())
    };
    tree.get("/proc/cpuinfo")?.lines().find_map(value)
}
