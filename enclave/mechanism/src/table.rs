//! The two tables of the noise's coarse part `y`.
//!
//! Row `j` of the short one is 2^8 times the sum of the first `j + 1` of `floor(2^23 P(|y| = k))`: of 31 random bits the
//! upper 23 decide, and the others take part in the comparison without changing it. Row `j` of the reserve's is
//! `2^63 Q(|y| <= j)`, rounded, where Q is what the short table leaves over, divided by its sum.
//!
//! `myelin.privacy.noise_law` computes both to 60 digits, and a test compares; it also computes what rounding costs.

/// Where the short table ends: 31 bits from here on do not decide.
pub(crate) const HEAD_END: i32 = 2_147_480_832;

/// Rows of the reserve's table, and so the largest coarse part.
pub(crate) const RESERVE_ROWS: usize = 40;

/// The sum of comparisons, written out: a loop over lanes around it then has no inner loop and becomes vector code.
macro_rules! count_reached {
    ($level:expr; $as:ty; $($threshold:literal)*) => { <$as>::from(0u8) $(.wrapping_add(<$as>::from($level >= $threshold)))* };
}

/// The coarse part's magnitude for 31 uniform bits below [`HEAD_END`]: how many rows they reach. Compares with all.
#[inline(always)]
pub(crate) fn head_reached(level: i32) -> u32 {
    let count: i32 = count_reached!(level; i32;
            223_421_440 655_322_880 1_045_331_456 1_374_353_920 1_633_677_312 1_824_630_784 1_955_998_208
            2_040_434_688 2_091_140_864 2_119_591_424 2_134_506_752 2_141_812_992 2_145_157_120 2_146_587_392
            2_147_159_040 2_147_372_544 2_147_447_040 2_147_471_104 2_147_478_272 2_147_480_320 2_147_480_832);
    count as u32
}

/// The magnitude in reserve for 63 uniform bits: how many rows they reach. Compares with all.
#[inline(always)]
pub(crate) fn reserve_reached(level: i64) -> u32 {
    let count: i64 = count_reached!(level; i64;
            478_070_815_930_539_783 881_696_123_018_089_911 1_464_348_017_725_625_562 1_957_974_630_470_692_039
            2_746_226_421_494_596_952 3_061_469_686_568_984_043 3_777_791_006_300_217_312 4_218_642_351_659_214_227
            5_046_095_826_420_590_170 5_781_391_375_609_034_003 6_010_048_845_283_962_500 6_140_202_424_889_477_807
            6_349_670_785_345_175_022 6_506_743_795_638_244_045 6_542_506_922_043_645_499 6_562_186_094_423_198_836
            6_652_459_678_559_817_097 7_457_402_938_976_014_594 8_254_484_664_221_208_398 8_463_635_892_749_177_623
            8_628_946_875_736_666_865 9_087_599_399_957_994_252 9_194_338_111_811_909_427 9_217_559_819_969_372_524
            9_222_282_877_332_836_538 9_223_180_993_510_959_697 9_223_340_671_839_730_041 9_223_367_217_161_826_909
            9_223_371_343_676_793_001 9_223_371_943_547_277_169 9_223_372_025_099_499_531 9_223_372_035_468_675_668
            9_223_372_036_701_806_130 9_223_372_036_838_975_308 9_223_372_036_853_248_246 9_223_372_036_854_637_579
            9_223_372_036_854_764_100 9_223_372_036_854_774_880 9_223_372_036_854_775_739 9_223_372_036_854_775_803);
    count as u32
}
