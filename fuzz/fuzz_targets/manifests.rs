//! Manifests of users, and whether a sidecar takes what the control plane makes of them. What else must hold is said in
//! `weft_control_plane::fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    weft_control_plane::fuzzing::manifests(data, &mut |resource| {
        let (name, body) = (&resource.name, &resource.body);
        if let Err(why) = weft_sidecar::fuzzing::compiles(resource.type_url, name, body) {
            panic!("{} {name} does not compile: {why}", resource.type_url);
        }
    });
});
