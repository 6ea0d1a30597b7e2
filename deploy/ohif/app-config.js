// OHIF beside Orthanc, both behind one address; docs/viewers.md tells how. Read by OHIF 3.13.

const imageOf = displaySet => displaySet.instances?.[0];

// Images that `displaySet` was made from, by their UIDs.
const sourceUids = displaySet =>
  [imageOf(displaySet)?.SourceImageSequence ?? []].flat().map(item => item.ReferencedSOPInstanceUID);

const isMadeFrom = (derived, source) => {
  const uids = sourceUids(derived);
  return source !== derived && (source.instances ?? []).some(image => uids.includes(image.SOPInstanceUID));
};

// A super-resolved series whose source lies in the same study.
const isDerived = (displaySet, { displaySets = [] } = {}) =>
  (imageOf(displaySet)?.ImageType ?? []).includes('DERIVED') && displaySets.some(other => isMadeFrom(displaySet, other));

const isSource = (displaySet, { displaySets = [], displaySetMatchDetails } = {}) => {
  const uid = displaySetMatchDetails?.get('derived')?.displaySetInstanceUID;
  const derived = displaySets.find(other => other.displaySetInstanceUID === uid);
  return derived !== undefined && isMadeFrom(derived, displaySet);
};

const hasPair = (_study, { displaySets = [] } = {}) => displaySets.some(item => isDerived(item, { displaySets }));

const isTrue = (attribute, weight) => ({ attribute, weight, constraint: { equals: { value: true } } });

const linked = type => ({ type, id: `ldmsr-${type}`, source: true, target: true });

const showing = (viewportId, id) => ({
  viewportOptions: {
    viewportId,
    viewportType: 'stack',
    toolGroupId: 'default',
    allowUnmatchedView: true,
    initialImageOptions: { preset: 'middle' },
    syncGroups: [linked('imageSlice'), linked('voi'), linked('zoompan')],
  },
  displaySets: [{ id }],
});

const sideBySide = {
  id: 'ldmsr',
  name: 'Source and super-resolved',
  description: 'A super-resolved series beside its source, linked',
  protocolMatchingRules: [{ ...isTrue('ldmsrHasPair', 1000), required: true }],
  toolGroupIds: ['default'],
  displaySetSelectors: {
    // The first in this order: what the second one is depends on it.
    derived: { seriesMatchingRules: [isTrue('ldmsrIsDerived', 20), isTrue('isDisplaySetFromUrl', 10)] },
    source: { seriesMatchingRules: [isTrue('ldmsrIsSource', 20)] },
  },
  defaultViewport: showing('default', 'derived'),
  stages: [
    {
      name: 'side by side',
      viewportStructure: { layoutType: 'grid', properties: { rows: 1, columns: 2 } },
      viewports: [showing('source', 'source'), showing('derived', 'derived')],
    },
  ],
  numberOfPriorsReferenced: -1,
};

const superResolution = {
  id: 'ldmsr-super-resolution',
  preRegistration: ({ servicesManager }) => {
    const { hangingProtocolService } = servicesManager.services;
    hangingProtocolService.addCustomAttribute('ldmsrHasPair', 'A series and what it was made from', hasPair);
    hangingProtocolService.addCustomAttribute('ldmsrIsDerived', 'Made from another series here', isDerived);
    hangingProtocolService.addCustomAttribute('ldmsrIsSource', 'Source of the one found first', isSource);
  },
  getHangingProtocolModule: () => [{ name: sideBySide.id, protocol: sideBySide }],
};

window.config = {
  routerBasename: null,
  extensions: [superResolution],
  modes: [],
  modesConfiguration: {
    '@ohif/mode-longitudinal': { hangingProtocol: { $set: ['ldmsr', 'default'] } },
  },
  customizationService: {},
  showStudyList: true,
  maxNumberOfWebWorkers: 3,
  showWarningMessageForCrossOrigin: true,
  showCPUFallbackMessage: true,
  showLoadingIndicator: true,
  strictZSpacingForVolumeViewport: true,
  defaultDataSourceName: 'orthanc',
  dataSources: [
    {
      namespace: '@ohif/extension-default.dataSourcesModule.dicomweb',
      sourceName: 'orthanc',
      configuration: {
        friendlyName: 'Orthanc',
        name: 'orthanc',
        qidoRoot: '/dicom-web',
        wadoRoot: '/dicom-web',
        wadoUriRoot: '/dicom-web',
        qidoSupportsIncludeField: false,
        imageRendering: 'wadors',
        thumbnailRendering: 'wadors',
        enableStudyLazyLoad: true,
        supportsFuzzyMatching: false,
        supportsWildcard: true,
        singlepart: 'bulkdata',
        bulkDataURI: { enabled: true },
        omitQuotationForMultipartRequest: true,
      },
    },
  ],
};
