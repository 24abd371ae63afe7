//! Proofs of partitions: `odgm partition verify`, `verify-view`, and `odgm log verify`.

use std::collections::BTreeMap;

use odgm_proto::odgm::v1;
use serde::Serialize;

use super::{
    address::ClassAddress,
    client::Context,
    error::Error,
    output::{Cell, Human, Style, Table, Tint},
    progress,
};

/// What is proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// The chain of the log.
    Log,
    /// That the view is what the log says.
    View,
}

/// Proves partitions of a running node.
pub(crate) async fn online(address: ClassAddress, what: What, context: &mut Context) -> Result<(), Error> {
    let client = context.connect().await?;
    let request =
        v1::VerifyRequest { cls_id: address.class.clone(), partition_id: address.partition.map(u32::from) };
    let mut admin = client.admin();
    let mut stream = match what {
        What::Log => admin.verify(request).await?,
        What::View => admin.verify_view(request).await?,
    }
    .into_inner();
    let bar = progress::steps(0, "records");
    let mut seen: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
    let mut proofs = Vec::new();
    while let Some(answer) = stream.message().await? {
        seen.insert(answer.partition_id, (answer.checked_offset, answer.last_offset));
        bar.set_length(seen.values().map(|(_, last)| last).sum());
        bar.set_position(seen.values().map(|(checked, _)| checked).sum());
        if let Some(result) = answer.result {
            proofs.push(Proof {
                name: format!("{}/{}", address.class, answer.partition_id),
                ok: result.ok,
                last_offset: answer.last_offset,
                hash: result.hash,
                problem: (!result.problem.is_empty()).then_some(result.problem),
            });
        }
    }
    bar.finish_and_clear();
    conclude(proofs, context)
}

/// Shows the proofs; an error if one of them failed.
pub(crate) fn conclude(partitions: Vec<Proof>, context: &mut Context) -> Result<(), Error> {
    let failed = partitions.iter().filter(|proof| !proof.ok).count();
    let count = partitions.len();
    context.output.document(&Proofs { ok: failed == 0, partitions })?;
    match failed {
        0 => Ok(()),
        _ => Err(Error::Failed(format!("{failed} of {count} partitions do not verify"))),
    }
}

#[derive(Debug, Serialize)]
struct Proofs {
    ok: bool,
    partitions: Vec<Proof>,
}

/// What came of checking one partition.
#[derive(Debug, Serialize)]
pub(crate) struct Proof {
    /// The partition, or the group where no more is known.
    #[serde(rename = "partition")]
    pub(crate) name: String,
    /// Whether it is as it must be.
    pub(crate) ok: bool,
    /// Up to where it was checked.
    pub(crate) last_offset: u64,
    /// The chain or the state there.
    pub(crate) hash: String,
    /// What is wrong, and where.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) problem: Option<String>,
}

impl Human for Proofs {
    fn human(&self, style: Style) -> String {
        if self.partitions.is_empty() {
            return "no partitions\n".to_owned();
        }
        let mut table = Table::new(&["PARTITION", "RESULT", "LAST", "HASH"]);
        for proof in &self.partitions {
            let result = match proof.ok {
                true => Cell::from("ok").tinted(Tint::Good),
                false => Cell::from("WRONG").tinted(Tint::Bad),
            };
            table.row(vec![
                proof.name.as_str().into(),
                result,
                proof.last_offset.into(),
                proof.hash.as_str().into(),
            ]);
        }
        let mut text = table.render(style);
        for proof in &self.partitions {
            if let Some(problem) = &proof.problem {
                text += &format!("{}: {problem}\n", proof.name);
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proofs_name_what_is_wrong_and_where() {
        let proof = |partition: u32, problem: Option<&str>| Proof {
            name: format!("flights/{partition}"),
            ok: problem.is_none(),
            last_offset: 41_783,
            hash: "6f2b".repeat(16),
            problem: problem.map(str::to_owned),
        };
        let wrong = "offset 17: the record's checksum is 0badf00d, not 600df00d";
        let proofs = Proofs { ok: false, partitions: vec![proof(0, None), proof(1, Some(wrong))] };
        insta::assert_snapshot!(proofs.human(Style::PLAIN), @"
        PARTITION  RESULT   LAST  HASH
        flights/0  ok      41783  6f2b6f2b6f2b6f2b6f2b6f2b6f2b6f2b6f2b6f2b6f2b6f2b6f2b6f2b6f2b6f2b
        flights/1  WRONG   41783  6f2b6f2b6f2b6f2b6f2b6f2b6f2b6f2b6f2b6f2b6f2b6f2b6f2b6f2b6f2b6f2b
        flights/1: offset 17: the record's checksum is 0badf00d, not 600df00d
        ");
        insta::assert_json_snapshot!(proofs, @r#"
        {
          "ok": false,
          "partitions": [
            {
              "partition": "flights/0",
              "ok": true,
              "last_offset": 41783,
              "hash": "6f2b6f2b6f2b6f2b6f2b6f2b6f2b6f2b6f2b6f2b6f2b6f2b6f2b6f2b6f2b6f2b"
            },
            {
              "partition": "flights/1",
              "ok": false,
              "last_offset": 41783,
              "hash": "6f2b6f2b6f2b6f2b6f2b6f2b6f2b6f2b6f2b6f2b6f2b6f2b6f2b6f2b6f2b6f2b",
              "problem": "offset 17: the record's checksum is 0badf00d, not 600df00d"
            }
          ]
        }
        "#);
    }
}
