//! "Only these address ranges" as exclusions: the redirection knows exceptions only, so what is not included is written as the
//! fewest ranges that cover it. Pure. Bound: 32 or 128 ranges, and as many steps, per included one; the caller bounds those.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// The fewest ranges that hold every address that `included` does not.
pub(super) fn all_but(included: &[IpNet]) -> Vec<IpNet> {
    let mut rest = Vec::new();
    for all in [IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())] {
        walk(all, &inside(all, included), &mut rest);
    }
    rest
}

/// Those of `included` that lie in `range`. `contains` is false between families.
fn inside(range: IpNet, included: &[IpNet]) -> Vec<IpNet> {
    included.iter().copied().filter(|included| range.contains(included)).collect()
}

/// `included` lies in `range`, all of it.
fn walk(range: IpNet, included: &[IpNet], rest: &mut Vec<IpNet>) {
    if included.is_empty() {
        return rest.push(range);
    }
    if included.iter().any(|included| included.contains(&range)) {
        return;
    }
    // A range that holds smaller ones can be halved, and each of them lies in one of the halves.
    for half in range.subnets(range.prefix_len() + 1).into_iter().flatten() {
        walk(half, &inside(half, included), rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_included_is_excluded() {
        #[rustfmt::skip]
        let rows: &[(&[&str], &[&str])] = &[
            (&[],                             &["0.0.0.0/0", "::/0"]),
            (&["0.0.0.0/0"],                  &["::/0"]),
            (&["0.0.0.0/0", "::/0"],          &[]),
            (&["128.0.0.0/1"],                &["0.0.0.0/1", "::/0"]),
            (&["128.0.0.0/1", "0.0.0.0/1"],   &["::/0"]),
            (&["10.0.0.0/8"], &["0.0.0.0/5", "8.0.0.0/7", "11.0.0.0/8", "12.0.0.0/6", "16.0.0.0/4", "32.0.0.0/3", "64.0.0.0/2", "128.0.0.0/1", "::/0"]),
            (&["10.0.0.0/8", "10.1.0.0/16"],  &["0.0.0.0/5", "8.0.0.0/7", "11.0.0.0/8", "12.0.0.0/6", "16.0.0.0/4", "32.0.0.0/3", "64.0.0.0/2", "128.0.0.0/1", "::/0"]),
        ];
        for (included, expected) in rows {
            let included: Vec<IpNet> = included.iter().map(|range| range.parse().unwrap()).collect();
            let found: Vec<_> = all_but(&included).iter().map(ToString::to_string).collect();
            assert_eq!(found, *expected, "{included:?}");
        }
        let one: Vec<IpNet> = vec!["10.9.8.7/32".parse().unwrap(), "fd00::1/128".parse().unwrap()];
        let rest = all_but(&one);
        assert_eq!(rest.len(), 32 + 128);
        assert!(!rest.iter().any(|range| one.iter().any(|one| range.contains(one))));
    }
}
