//! Published vectors of AES-256-GCM with nonces and tags of 96 bits.
//!
//! NIST's are from its CAVP's "GCM Test Vectors" (`gcmEncryptExtIV256.rsp`, `gcmDecrypt256.rsp`), from their sections with
//! `[IVlen = 96]` and `[Taglen = 96]`: with the lengths of plain and of additional text in bits, and the count.

/// One of them, in hexadecimal.
pub struct Vector {
    pub from: &'static str,
    pub key: &'static str,
    pub nonce: &'static str,
    pub about: &'static str,
    /// Nothing for one that does not open.
    pub plain: &'static str,
    pub sealed: &'static str,
    pub tag: &'static str,
}

/// These are what a cipher makes, and it opens them.
pub const SEALED: &[Vector] = &[
    Vector {
        from: "McGrew, Viega, The Galois/Counter Mode of Operation, test case 16, tag cut to 96 bits",
        key: "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308",
        nonce: "cafebabefacedbaddecaf888",
        about: "feedfacedeadbeeffeedfacedeadbeefabaddad2",
        plain: concat!(
            "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449",
            "a6b525b16aedf5aa0de657ba637b39",
        ),
        sealed: concat!(
            "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056",
            "828838c5f61e6393ba7a0abcc9f662",
        ),
        tag: "76fc6ece0f4e1768cddf8853",
    },
    Vector {
        from: "gcmEncryptExtIV256, 0, 0, 0",
        key: "98ebf7a58db8b8371d9069171190063cc1fdc1927e49a3385f890d41a838619c",
        nonce: "3e6db953bd4e641de644e50a",
        about: "",
        plain: "",
        sealed: "",
        tag: "2fb9c3e41fff24ef07437c47",
    },
    Vector {
        from: "gcmEncryptExtIV256, 0, 160, 0",
        key: "894be0a22e1ba0279e64ecfebc412aaa72e26a1820b21295dfd29e3f5b97aebd",
        nonce: "0e4d1c78085643e39c0d465f",
        about: "51859100074ffa193ca70b2565768e1c0a4176ee",
        plain: "",
        sealed: "",
        tag: "7d209c05edeeca3aaa7f9903",
    },
    Vector {
        from: "gcmEncryptExtIV256, 128, 0, 0",
        key: "b33b0e4c5b9f7ef77cec1a29ed5844bda3853238bdf7766e7645029931f169f0",
        nonce: "f226d65e8654fdf5193ed721",
        about: "",
        plain: "bcf48ddcfe9d011a1003973d68d2d78a",
        sealed: "d2eb20898a301b5d8e69e99262720213",
        tag: "93af01abb6a970047a7fc010",
    },
    Vector {
        from: "gcmEncryptExtIV256, 104, 384, 0",
        key: "1eacdaa27bfb7a065bab598d56ae9f7de7399ee9b98e7832585658395aae38ae",
        nonce: "f1e29d9b54e1b2b15c842f40",
        about: concat!(
            "73ad0e5a1501ef46a51289868bc1a9d2bd8fd362591d28f146cccf3f7e990fde1d438bae2d8614bc6c78dbd1da",
            "10e242",
        ),
        plain: "01b1fea63001163c13151222d3",
        sealed: "cedd626f0808a621eb7ae59d59",
        tag: "f6e7b6967f3669b1589006b9",
    },
    Vector {
        from: "gcmEncryptExtIV256, 256, 128, 0",
        key: "185cded583eba7f3d06cb5dc9d23fa6c51d27d1336206c1c2938fe771751831a",
        nonce: "b2b6853541e56cd85f7f2b4b",
        about: "58ee0bd99a31b79002fd43e9f0c8718d",
        plain: "133f837fabd08eb5970936ae65d64bfd556020900a1d16a549564c6243fac494",
        sealed: "847e3d4dc053f741a843b3c7d959529214e04c9891f9d5b490d74caa73ac4af1",
        tag: "9f728944fa967e3033f8c23f",
    },
    Vector {
        from: "gcmEncryptExtIV256, 408, 720, 0",
        key: "54a2e564d9796ba66e7e4f1456782f08a921b097dfb0f62302b02f0473c770ca",
        nonce: "9efca71be89b11b857c9cc80",
        about: concat!(
            "3debc7ce4501dea63152206eb8ca2f8c41824a0d4e7f95488497eec76230bdab0663f22c0b94b17f077ae914d6",
            "61710fe93756f48ac02d378abf49c129889fc4beb502f61cfd2374a76d979e45f4630fd2a3ca7d3fb3574c98b9",
        ),
        plain: concat!(
            "50205d7a3fcc71ebd386e48a421bcdaf3287cf78df1c10921fe85855ccc07a701623260d7992aa48103865402e",
            "fa12b0cb8a71",
        ),
        sealed: concat!(
            "4b41f4e02f7e71eab4dfd1b3b4457e0c0459a9581f550cb8766ebc2c30e26847d95ef3fc6cec5d1cf5cbe1720f",
            "6936307ed7b8",
        ),
        tag: "ba9821b0d7f4327db5228640",
    },
    Vector {
        from: "gcmDecrypt256, 408, 160, 0",
        key: "42c0a0a84313b3ec2bef0d682e3cd3f58909f7d10a507b872dec7ec3ec9459b9",
        nonce: "c304d5923382e4a618bd86e5",
        about: "2f0fa288b529e830ea4842ae4b3e573e7294f395",
        plain: concat!(
            "33331deccbe7b01f85df110e098c04e72164c939b70624393bfde734109508540333cbeb0f421acd7fb7684be7",
            "0113726c29d2",
        ),
        sealed: concat!(
            "b3868157d96f9329f672a51d2c2177e78353806b1d203d8495130523595be6a207609bb90484ed506a8fe02db5",
            "560105015a9d",
        ),
        tag: "9d752345595386a1cd17e376",
    },
    Vector {
        from: "gcmDecrypt256, 104, 720, 0",
        key: "81f41f3d436f32f00612d6fc643ae7e629d39e07d284ea2ecbeb38394b8adbb0",
        nonce: "c003949fec83247b4b81ea03",
        about: concat!(
            "20027bcce2213e14fdc6930a941ca36622514da84ec61494cd56cb09101d40837328e701e3985452f103658494",
            "21865335a5044646309967223815fa1b663adace483166a71bc1b86324438b00bf5292b83e0a0caedf3e451676",
        ),
        plain: "1486e6e649f98529df4127c1c8",
        sealed: "df1aaf1e657154f8907318a610",
        tag: "71de80b9135827fa60fef4c6",
    },
];

/// These do not open.
pub const REFUSED: &[Vector] = &[
    Vector {
        from: "gcmDecrypt256, 0, 160, 1",
        key: "91f7b519643d65f4063d9920b1dd230ef698eeb2f822f027034b207e351d783e",
        nonce: "8df30996d28494fc74f29554",
        about: "d9df77d42c2fe2fa7616a219f025a037a1d31fdb",
        plain: "",
        sealed: "",
        tag: "e30bee3116c75f53874b508d",
    },
    Vector {
        from: "gcmDecrypt256, 128, 384, 0",
        key: "209a76164cbc6ccd107657d03bf69442179f55c932806438e0047b32f79856be",
        nonce: "c78f85d16dc3e02cc3dc62af",
        about: concat!(
            "758a933bde3327d3d219773711d0caf3e0ef57b17cb4bae4c14fa2763b86012d6fc04b606c13b0cb2d8df08518",
            "70bf4e",
        ),
        plain: "",
        sealed: "9a382dcbe89416096195a774bd8cdc6b",
        tag: "19ea04e6f4a7ebeb844de4e5",
    },
    Vector {
        from: "gcmDecrypt256, 104, 720, 1",
        key: "ba31584d7f4c722826bfcaa4d70d23fbea5435f68afe64a3dada2c641bce1a36",
        nonce: "7ff0475540399f032b9bd99e",
        about: concat!(
            "393ba973f51ccbf58a1324323aee15e67c8b275c3c598edd62b2f65b76c7317dbeb0161f442f8908eb8fb661ef",
            "1f2b2d2ca01779d91d8c0220a9cf5fb54fe01f5f4f901237cf12a24aed0417ee53f384a579be1f0c9d2d076d31",
        ),
        plain: "",
        sealed: "f527c8627b075faa6cf13880d5",
        tag: "2fe6eb759df968a56b582ae0",
    },
    Vector {
        from: "gcmDecrypt256, 408, 160, 1",
        key: "013a4062beb51d4d9a32c41c8f028d5ba63baa47106582d5eb999b7ddf770da8",
        nonce: "94ee8dd1c71d167ec46fb695",
        about: "f44391afc693de3eb1b3b96fd8a04686b0d5e05b",
        plain: "",
        sealed: concat!(
            "c28eb72f3b084031a60053a5354220af319e5ad63a6027eb9c350539f6485b336fda6d36cdbaacf88034c7ac25",
            "6f5ac7fec665",
        ),
        tag: "c8aff5b63a61e0af16919f7a",
    },
];
