use super::*;
use crate::redirect::rules::Options;
use crate::redirect::rules::tests::options;

fn ruleset() -> Ruleset {
    Ruleset::new(&options()).unwrap()
}

#[test]
fn what_is_written_reads_back_equal() {
    let transaction = replace(&ruleset());
    let mut chains: Vec<InstalledChain> = Vec::new();
    for reply in read(&transaction.bytes) {
        match reply {
            Reply::Chain(chain) => chains.push(chain),
            Reply::Rule(rule) => chains.iter_mut().find(|chain| chain.name == rule.chain).unwrap().push(rule),
            _ => {}
        }
    }
    let expected: Vec<_> = ruleset().chains.iter().map(InstalledChain::of).collect();
    assert_eq!(chains, expected);
}

#[test]
fn only_the_last_message_of_a_transaction_asks_for_an_answer() {
    for transaction in [replace(&ruleset()), remove()] {
        let mut bytes = transaction.bytes.as_slice();
        let mut asking = Vec::new();
        let mut sequences = Vec::new();
        while let Some((length, _, sequence)) = read_header(bytes) {
            if u16::from_ne_bytes([bytes[6], bytes[7]]) & ACK != 0 {
                asking.push(sequence);
            }
            sequences.push(sequence);
            bytes = &bytes[length..];
        }
        assert_eq!(asking, [transaction.acknowledged_by]);
        assert_eq!(sequences.last(), Some(&(transaction.acknowledged_by + 1)), "only the batch's end comes after");
    }
}

#[test]
fn messages_and_attributes_are_aligned() {
    let mut bytes = replace(&ruleset()).bytes;
    assert_eq!(bytes.len() % 4, 0);
    assert!(bytes.len() < 16 * 1024, "{} bytes", bytes.len());
    // Cut anywhere, reading neither panics nor invents a rule that differs from one written.
    let whole = read(&bytes);
    while bytes.pop().is_some() {
        let part = read(&bytes);
        assert_eq!(part[..], whole[..part.len()]);
    }
}

#[test]
fn a_rule_that_differs_in_anything_is_noticed() {
    let compiled = |options: &Options| -> Vec<_> {
        Ruleset::new(options).unwrap().chains.iter().map(InstalledChain::of).collect()
    };
    let expected = compiled(&options());
    for (what, changed) in [
        ("another uid", Options { uid: 1338, ..options() }),
        ("a range", Options { exclude_outbound_ports: vec!["9000-9011".parse().unwrap()], ..options() }),
        ("a prefix", Options { exclude_outbound_cidrs: vec!["192.168.0.0/17".parse().unwrap()], ..options() }),
        ("one rule less", Options { exclude_inbound_ports: vec![], ..options() }),
    ] {
        assert_ne!(compiled(&changed), expected, "{what}");
    }
}

#[test]
fn errors_are_read_with_their_message() {
    let mut reply = Vec::new();
    reply.extend(36u32.to_ne_bytes());
    reply.extend(2u16.to_ne_bytes());
    reply.extend([0; 2]);
    reply.extend(7u32.to_ne_bytes());
    reply.extend([0; 4]);
    reply.extend((-1i32).to_ne_bytes());
    reply.resize(36, 0);
    assert_eq!(read(&reply), [Reply::Result { sequence: 7, errno: 1 }]);
}

#[test]
fn nonsense_from_the_kernel_side_is_not_followed() {
    for bytes in [&[][..], &[0; 15], &[0; 64], &[0xff; 64], &[16, 0, 0, 0, 10], &[20, 0, 0, 0, 6, 10, 0, 0]] {
        let replies = read(bytes);
        assert!(replies.iter().all(|reply| !matches!(reply, Reply::Rule(_) | Reply::Chain(_))), "{bytes:?}");
    }
}
