//! Writes what the fuzzers begin with: one folder for each of them, below the folder that is named.

use bytes::BytesMut;
use proto::cluster::{Assignment, EngineOrder, EngineRequest, Generated, Join, Opened, Welcome};
use proto::{
    Completion, FinishReason, GenerateRequest, Role, SamplingParams, ToolCall, WeightVersion, codec,
};
use std::collections::BTreeSet;
use std::error::Error;
use std::path::{Path, PathBuf};
use transport::certs::{Authority, Credentials, Validity};
use transport::frame::{Header, What, encode};

fn main() -> Result<(), Box<dyn Error>> {
    let folder: PathBuf = std::env::args_os().nth(1).ok_or("name a folder")?.into();
    write(&folder.join("frames"), frames()?)?;
    write(&folder.join("messages"), messages()?)?;
    write(&folder.join("certificates"), certificates(&folder)?)?;
    Ok(())
}

fn write(folder: &Path, seeds: Vec<Vec<u8>>) -> Result<(), Box<dyn Error>> {
    std::fs::create_dir_all(folder)?;
    for (number, seed) in seeds.iter().enumerate() {
        std::fs::write(folder.join(format!("seed-{number}")), seed)?;
    }
    Ok(())
}

fn frames() -> Result<Vec<Vec<u8>>, Box<dyn Error>> {
    let mut stream = BytesMut::from(&[5][..]);
    let kinds = [
        What::Request,
        What::Cast,
        What::Answer,
        What::Refusal,
        What::Cancel,
    ];
    for (number, what) in kinds.into_iter().enumerate() {
        let header = Header {
            what,
            method: 1,
            deadline_ms: 1000,
            number: number as u64,
        };
        encode(header, &vec![7; number * 30], &mut stream)?;
    }
    Ok(vec![stream.to_vec()])
}

fn messages() -> Result<Vec<Vec<u8>>, Box<dyn Error>> {
    let join = Join {
        name: "n-1".parse()?,
        boot: 1,
        roles: BTreeSet::from([Role::Sampler, Role::Tool]),
        config: Some("hash".into()),
        address: Some("10.0.0.7:40000".into()),
        device: "cuda:0".into(),
    };
    let welcome = Welcome {
        node: 1,
        run: "run".into(),
        config: "hash".into(),
        data_port: 7001,
        heartbeat_ms: 500,
    };
    let assignment = Assignment {
        engines: vec![EngineOrder {
            role: Role::Sampler,
            key: "key".into(),
            order: vec![1, 2],
        }],
    };
    let opened = vec![Opened {
        role: Role::Tool,
        credits: Err("no room".into()),
    }];
    let generate = EngineRequest::Generate(vec![GenerateRequest {
        prompt: vec![1, 2, 3],
        samples: 2,
        params: SamplingParams::greedy(8, vec!["</answer>".into()]),
        seed: 3,
    }]);
    let execute = EngineRequest::Execute(ToolCall {
        tool: "calculator".into(),
        arguments: "1+1".into(),
    });
    let generated: Result<Generated, String> = Ok(vec![vec![Completion {
        tokens: vec![4, 5],
        logprobs: vec![-0.5, -0.25],
        finish: FinishReason::StopText,
        text: "<answer>2</answer>".into(),
        weight_version: WeightVersion(1),
    }]]);
    let seeds = [
        (0, codec::encode(&join)?),
        (1, codec::encode(&welcome)?),
        (2, codec::encode(&assignment)?),
        (3, codec::encode(&opened)?),
        (4, codec::encode(&generate)?),
        (4, codec::encode(&execute)?),
        (5, codec::encode(&generated)?),
    ];
    let tagged = seeds.map(|(which, bytes)| [vec![which], bytes].concat());
    Ok(tagged.into())
}

fn certificates(folder: &Path) -> Result<Vec<Vec<u8>>, Box<dyn Error>> {
    let authority = folder.join("authority");
    let _ = std::fs::remove_dir_all(&authority);
    let authority = Authority::create(&authority, Validity::of_days(1))?;
    let name = "n-1".parse()?;
    let roles = BTreeSet::from([Role::Sampler, Role::Judge]);
    authority.issue(&name, &roles, Validity::of_days(1))?;
    let credentials = Credentials::load(&authority.node_folder(&name))?;
    Ok(credentials.chain().iter().map(|c| c.to_vec()).collect())
}
